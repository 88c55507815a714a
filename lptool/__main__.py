from lptool.cli import main

main()

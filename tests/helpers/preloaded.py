"""What the server of `processes` imports once for all that it forks: everything that commands import."""

import gc

from tests.reliability.material import warm_up

warm_up()
gc.freeze()  # a collection in a fork would touch, and so copy, all of it

"""Networks: timm's, ours and a user's own. Importing this registers ours with timm."""

from lptool.networks import cifar as cifar

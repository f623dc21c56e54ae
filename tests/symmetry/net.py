"""A module out of its parts and a function."""

from torch import nn


class Net(nn.Module):
    """forward(x) is `function(self, x)`; `parts` are its modules and parameters.

    Example:
        Net(lambda net, x: net.out(net.hidden(x).relu()), hidden=nn.Linear(4, 5), out=...)
    """

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)

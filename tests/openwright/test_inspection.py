"""Steps and documents of a bundle, against brute force over every window of every step."""

from collections import defaultdict

import pytest
import tiny_runs

from data_recipes.order import Order, OrderSource, Phase
from data_recipes.windows import TokenWindows
from openwright import inspection

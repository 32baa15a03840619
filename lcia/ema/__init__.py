"""The dynamic average of weights, for any torch optimizer. Needs torch alone.

- `dynamic`: the average as users hold it
- `rules`: how the balance weight beta follows from sums
- `scalar`: one beta for each tensor, layer or model
- `curvature`: one beta for each entry
- `pema`: one beta for each entry, from the inverse of a matrix
- `buffers`: what a scalar rule keeps, and the sums it asks for
- `tally`: what happened to beta, counted on the device
- `tracked`: the parameters that are followed
- `hooks`: before and after an optimizer's step
- `sharding`: tensors that may be shards of distributed ones
"""

from lcia.ema.dynamic import DynamicEma, Rule
from lcia.ema.pema import Pema
from lcia.ema.rules import Curvature, Fixed, Official, Paper, Proximal
from lcia.ema.scalar import Options

__all__ = ["Curvature", "DynamicEma", "Fixed", "Official", "Options", "Paper", "Pema", "Proximal", "Rule"]

"""The dynamic average of weights, for any torch optimizer.

- `dynamic`: the average
- `rules`: how the balance weight follows from sums
- `scalar`: rules of one weight a tensor
- `curvature`: a weight an entry, from the curvature
- `moments`: curvature from Adam's moments
- `hooks`: before and after an optimizer's step
- `tracked`: the parameters that are followed
- `sharding`: tensors that may be shards of distributed ones
- `buffers`: the weights and gradients that are kept
- `sweeps`: one pass over tensors for all sums
- `previous_gradient`: the last step's gradient
- `tally`: figures over the steps
- `triton_launch`: one launch over all tensors
- `triton_kernels`: its kernels
"""

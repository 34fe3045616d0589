# Answers to the exercises of chapter 9: see 01_patches.py.

# %% right, fuse_heads, loops
def fuse_heads(A):
    B, H, T, _ = A.shape
    out = torch.zeros(B, T, T)
    for b in range(B):
        for i in range(T):
            out[b, i] = sum(A[b, k, i] for k in range(H))/H
            out[b, i, i] += 1
            out[b, i] /= out[b, i].sum()
    return out

# %% right, roll_out, from the last layer down
def roll_out(weights):
    def one(A):
        A = A.mean(1) + torch.eye(A.shape[-1])
        return A/A.sum(-1, keepdim=True)
    out = one(weights[-1])
    for l in range(len(weights) - 2, -1, -1): out = torch.einsum('bij,bjk->bik', out, one(weights[l]))
    return out

# %% right, class_map, picture by picture
def class_map(R, grid, n_prefix=1):
    out = []
    for r in R:
        m = r[0, n_prefix:] - r[0, n_prefix:].min()
        out.append((m/m.max() if m.max() > 0 else torch.zeros_like(m)).reshape(tuple(grid)))
    return torch.stack(out)

# %% right, every_head, all queries first
def every_head(weights, grid, query=0, n_prefix=1):
    L, B, H, T, _ = weights.shape
    w = weights[:, :, :, :, n_prefix:].clone()
    w /= w.sum(dim=4, keepdim=True)
    return w.view(L, B, H, T, grid[0], grid[1])[:, :, :, query]

# %% wrong, fuse_heads, sum of the heads
def fuse_heads(A):
    A = A.sum(1) + torch.eye(A.shape[-1])
    return A/A.sum(-1, keepdim=True)

# %% wrong, fuse_heads, identity for each head
def fuse_heads(A):
    A = (A + torch.eye(A.shape[-1])).sum(1) + torch.eye(A.shape[-1])
    return A/A.sum(-1, keepdim=True)

# %% wrong, fuse_heads, no identity
def fuse_heads(A):
    A = A.mean(1)
    return A/A.sum(-1, keepdim=True)

# %% wrong, fuse_heads, columns normalised
def fuse_heads(A):
    A = A.mean(1) + torch.eye(A.shape[-1])
    return A/A.sum(-2, keepdim=True)

# %% wrong, fuse_heads, sum without keepdim
def fuse_heads(A):
    A = A.mean(1) + torch.eye(A.shape[-1])
    return A/A.sum(-1)[:, None]

# %% wrong, fuse_heads, not normalised
def fuse_heads(A): return (A.mean(1) + torch.eye(A.shape[-1]))/2

# %% wrong, fuse_heads, the largest head
def fuse_heads(A):
    A = A.amax(1) + torch.eye(A.shape[-1])
    return A/A.sum(-1, keepdim=True)

# %% wrong, fuse_heads, mean over the batch too
def fuse_heads(A):
    B, A = len(A), A.mean((0, 1)) + torch.eye(A.shape[-1])
    return (A/A.sum(-1, keepdim=True)).expand(B, -1, -1)

# %% wrong, roll_out, the other order
def roll_out(weights):
    out = torch.eye(weights.shape[-1]).expand(weights.shape[1], -1, -1)
    for A in weights: out = out @ ((A.mean(1) + torch.eye(A.shape[-1]))/2)
    return out

# %% wrong, roll_out, without the skip connection
def roll_out(weights):
    out = torch.eye(weights.shape[-1]).expand(weights.shape[1], -1, -1)
    for A in weights: out = A.mean(1) @ out
    return out

# %% wrong, roll_out, mean of the layers
def roll_out(weights): return (weights.mean((0, 2)) + torch.eye(weights.shape[-1]))/2

# %% wrong, roll_out, product number by number
def roll_out(weights):
    out = 1.
    for A in weights: out = out*(A.mean(1) + torch.eye(A.shape[-1]))/2
    return out

# %% wrong, roll_out, first picture only
def roll_out(weights):
    out = torch.eye(weights.shape[-1])
    for A in weights: out = (A[:1].mean(1) + torch.eye(A.shape[-1]))/2 @ out
    return out.expand(weights.shape[1], -1, -1)

# %% wrong, roll_out, last layer only
def roll_out(weights): return (weights[-1].mean(1) + torch.eye(weights.shape[-1]))/2

# %% wrong, class_map, divided by the largest only
def class_map(R, grid, n_prefix=1):
    m = R[:, 0, n_prefix:].reshape(-1, *grid)
    return m/m.amax((1, 2), keepdim=True)

# %% wrong, class_map, scaled over the batch
def class_map(R, grid, n_prefix=1):
    m = R[:, 0, n_prefix:].reshape(-1, *grid)
    return (m - m.min())/(m.max() - m.min()) if m.max() > m.min() else m*0

# %% wrong, class_map, width before height
def class_map(R, grid, n_prefix=1):
    m = R[:, 0, n_prefix:].reshape(-1, grid[1], grid[0])
    low, high = m.amin((1, 2), keepdim=True), m.amax((1, 2), keepdim=True)
    return (m - low)/torch.where(high > low, high - low, 1.)

# %% wrong, class_map, one token in front, always
def class_map(R, grid, n_prefix=1):
    m = R[:, 0, 1:1 + grid[0]*grid[1]].reshape(-1, *grid)
    low, high = m.amin((1, 2), keepdim=True), m.amax((1, 2), keepdim=True)
    return (m - low)/torch.where(high > low, high - low, 1.)

# %% wrong, class_map, column of the class token
def class_map(R, grid, n_prefix=1):
    m = R[:, n_prefix:, 0].reshape(-1, *grid)
    low, high = m.amin((1, 2), keepdim=True), m.amax((1, 2), keepdim=True)
    return (m - low)/torch.where(high > low, high - low, 1.)

# %% wrong, class_map, nan where it is flat
def class_map(R, grid, n_prefix=1):
    m = R[:, 0, n_prefix:].reshape(-1, *grid)
    low, high = m.amin((1, 2), keepdim=True), m.amax((1, 2), keepdim=True)
    return (m - low)/(high - low)

# %% wrong, class_map, a square grid
def class_map(R, grid, n_prefix=1):
    side = int((R.shape[-1] - n_prefix)**.5)
    m = R[:, 0, n_prefix:].reshape(-1, side, side)
    low, high = m.amin((1, 2), keepdim=True), m.amax((1, 2), keepdim=True)
    return (m - low)/torch.where(high > low, high - low, 1.)

# %% wrong, every_head, mean of the heads
def every_head(weights, grid, query=0, n_prefix=1):
    rows = weights.mean(2, keepdim=True).expand_as(weights)[..., query, n_prefix:]
    return (rows/rows.sum(-1, keepdim=True)).unflatten(-1, tuple(grid))

# %% wrong, every_head, always the class token
def every_head(weights, grid, query=0, n_prefix=1):
    rows = weights[..., 0, n_prefix:]
    return (rows/rows.sum(-1, keepdim=True)).unflatten(-1, tuple(grid))

# %% wrong, every_head, who looks at it
def every_head(weights, grid, query=0, n_prefix=1):
    rows = weights[..., n_prefix:, query]
    return (rows/rows.sum(-1, keepdim=True)).unflatten(-1, tuple(grid))

# %% wrong, every_head, not divided by what is left
def every_head(weights, grid, query=0, n_prefix=1): return weights[..., query, n_prefix:].unflatten(-1, tuple(grid))

# %% wrong, every_head, registers stay
def every_head(weights, grid, query=0, n_prefix=1):
    rows = weights[..., query, 1:1 + grid[0]*grid[1]]
    return (rows/rows.sum(-1, keepdim=True)).unflatten(-1, tuple(grid))

# %% wrong, every_head, width before height
def every_head(weights, grid, query=0, n_prefix=1):
    rows = weights[..., query, n_prefix:]
    return (rows/rows.sum(-1, keepdim=True)).unflatten(-1, (grid[1], grid[0]))

# %% wrong, every_head, query counted from the first patch
def every_head(weights, grid, query=0, n_prefix=1):
    rows = weights[..., query + n_prefix if query else 0, n_prefix:]
    return (rows/rows.sum(-1, keepdim=True)).unflatten(-1, tuple(grid))

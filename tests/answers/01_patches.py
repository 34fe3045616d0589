# Answers to the exercises of chapter 1: `right` ones must get all points, `wrong` ones must lose some.
# Each replaces the cell of its exercise: `# %% right|wrong, exercise, what it is`.

# %% right, patchify, loops
def patchify(x, patch_size):
    ph, pw = pair(patch_size)
    if x.shape[2] % ph or x.shape[3] % pw: raise ValueError('does not divide')
    return torch.stack([x[:, :, i:i+ph, j:j+pw].flatten(1) for i in range(0, x.shape[2], ph) for j in range(0, x.shape[3], pw)], 1)

# %% right, patchify, unfold of a tensor
def patchify(x, patch_size):
    ph, pw = pair(patch_size)
    if x.shape[2] % ph or x.shape[3] % pw: raise ValueError('does not divide')
    return x.unfold(2, ph, ph).unfold(3, pw, pw).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)

# %% right, patchify, numpy and back
def patchify(x, patch_size):
    ph, pw = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    B, C, H, W = x.shape
    class Odd(ValueError): pass
    if H % ph or W % pw: raise Odd('does not divide')
    a = x.numpy().reshape(B, C, H//ph, ph, W//pw, pw)
    return torch.from_numpy(a.transpose(0, 2, 4, 1, 3, 5).reshape(B, -1, C*ph*pw))

# %% right, patchify, views all the way
def patchify(x, patch_size):
    (ph, pw), (B, C, H, W) = pair(patch_size), x.shape
    if H % ph or W % pw: raise ValueError('does not divide')
    return x.view(B, C, H//ph, ph, W//pw, pw).permute(0, 2, 4, 1, 3, 5).contiguous().view(B, -1, C*ph*pw)

# %% right, patchify, split and cat
def patchify(x, patch_size):
    ph, pw = pair(patch_size)
    if any(n % p for n, p in zip(x.shape[2:], (ph, pw))): raise ValueError('does not divide')
    return torch.cat([tile.flatten(1)[:, None] for row in x.split(ph, 2) for tile in row.split(pw, 3)], 1)

# %% right, patchify, indices with gather
def patchify(x, patch_size):
    (ph, pw), (B, C, H, W) = pair(patch_size), x.shape
    if H % ph or W % pw: raise ValueError('does not divide')
    place = torch.arange(C*H*W).reshape(C, H//ph, ph, W//pw, pw).permute(1, 3, 0, 2, 4).reshape(-1)
    return x.reshape(B, -1)[:, place].reshape(B, (H//ph)*(W//pw), -1)

# %% right, unpatchify, loops
def unpatchify(tokens, patch_size, grid, channels=3):
    (ph, pw), (h, w) = pair(patch_size), pair(grid)
    if tuple(tokens.shape[1:]) != (h*w, channels*ph*pw): raise ValueError('does not fit')
    x = tokens.new_zeros(tokens.shape[0], channels, h*ph, w*pw)
    for n in range(h*w):
        i, j = divmod(n, w)
        x[:, :, i*ph:(i+1)*ph, j*pw:(j+1)*pw] = tokens[:, n].reshape(-1, channels, ph, pw)
    return x

# %% right, unpatchify, rows of patches joined
def unpatchify(tokens, patch_size, grid, channels=3):
    (ph, pw), (h, w) = pair(patch_size), pair(grid)
    if tuple(tokens.shape[1:]) != (h*w, channels*ph*pw): raise ValueError('does not fit')
    p = tokens.unflatten(2, (channels, ph, pw)).unbind(1)
    return torch.cat([torch.cat(p[i*w:(i+1)*w], 3) for i in range(h)], 2)

# %% right, patch_embed, cut and multiply
class PatchEmbed(nn.Module):
    def __init__(self, img_size=224, patch_size=16, in_chans=3, dim=768):
        super().__init__()
        self.img_size, self.patch_size, self.in_chans = pair(img_size), pair(patch_size), in_chans
        (H, W), (ph, pw) = self.img_size, self.patch_size
        if H % ph or W % pw: raise ValueError('does not divide')
        self.grid, self.proj = [H//ph, W//pw], nn.Conv2d(in_chans, dim, self.patch_size, self.patch_size)
    def forward(self, x):
        if tuple(x.shape[1:]) != (self.in_chans, *self.img_size): raise ValueError('another size')
        (ph, pw), (h, w) = self.patch_size, self.grid
        t = x.reshape(len(x), self.in_chans, h, ph, w, pw).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return t @ self.proj.weight.flatten(1).T + self.proj.bias

# %% right, patch_embed, the one of timm
class PatchEmbed(__import__('timm').layers.PatchEmbed):
    def __init__(self, img_size=224, patch_size=16, in_chans=3, dim=768):
        if any(a % b for a, b in zip(pair(img_size), pair(patch_size))): raise ValueError('does not divide')
        super().__init__(pair(img_size), pair(patch_size), in_chans, dim)
        self.grid, self.in_chans = self.grid_size, in_chans
    def forward(self, x):
        if x.shape[1:] != (self.in_chans, *self.img_size): raise ValueError('another size')
        return super().forward(x)

# %% wrong, patchify, reshape without permute
def patchify(x, patch_size):
    ph, pw = pair(patch_size)
    if x.shape[2] % ph or x.shape[3] % pw: raise ValueError
    return x.reshape(x.shape[0], -1, x.shape[1]*ph*pw)

# %% wrong, patchify, columns before rows
def patchify(x, patch_size):
    (ph, pw), (B, C, H, W) = pair(patch_size), x.shape
    if H % ph or W % pw: raise ValueError
    return x.reshape(B, C, H//ph, ph, W//pw, pw).permute(0, 4, 2, 1, 3, 5).reshape(B, -1, C*ph*pw)

# %% wrong, patchify, width before height inside
def patchify(x, patch_size):
    (ph, pw), (B, C, H, W) = pair(patch_size), x.shape
    if H % ph or W % pw: raise ValueError
    return x.reshape(B, C, H//ph, ph, W//pw, pw).permute(0, 2, 4, 1, 5, 3).reshape(B, -1, C*ph*pw)

# %% wrong, patchify, colours last
def patchify(x, patch_size):
    (ph, pw), (B, C, H, W) = pair(patch_size), x.shape
    if H % ph or W % pw: raise ValueError
    return x.reshape(B, C, H//ph, ph, W//pw, pw).permute(0, 2, 4, 3, 5, 1).reshape(B, -1, C*ph*pw)

# %% wrong, patchify, images mixed up
def patchify(x, patch_size):
    (ph, pw), (B, C, H, W) = pair(patch_size), x.shape
    if H % ph or W % pw: raise ValueError
    return x.reshape(B, C, H//ph, ph, W//pw, pw).permute(2, 4, 0, 1, 3, 5).reshape(B, -1, C*ph*pw)

# %% wrong, patchify, always a 14 x 14 grid
def patchify(x, patch_size):
    B, C, H, W = x.shape
    if H % 14 or W % 14: raise ValueError
    return x.reshape(B, C, 14, H//14, 14, W//14).permute(0, 2, 4, 1, 3, 5).reshape(B, 196, -1)

# %% wrong, patchify, only for 224 and 16
def patchify(x, patch_size):
    return x.reshape(-1, 3, 14, 16, 14, 16).permute(0, 2, 4, 1, 3, 5).reshape(-1, 196, 768)

# %% wrong, patchify, square patches only
def patchify(x, patch_size):
    (p, _), (B, C, H, W) = pair(patch_size), x.shape
    if H % p or W % p: raise ValueError
    return x.reshape(B, C, H//p, p, W//p, p).permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C*p*p)

# %% wrong, patchify, height for width
def patchify(x, patch_size):
    (ph, pw), (B, C, H, W) = pair(patch_size), x.shape
    if H % ph or W % pw: raise ValueError
    return x.reshape(B, C, H//ph, ph, H//pw, pw).permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C*ph*pw)

# %% wrong, patchify, always float32
def patchify(x, patch_size):
    (ph, pw), (B, C, H, W) = pair(patch_size), x.shape
    if H % ph or W % pw: raise ValueError
    return x.float().reshape(B, C, H//ph, ph, W//pw, pw).permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C*ph*pw)

# %% wrong, patchify, unfold that wants floats
def patchify(x, patch_size):
    ph, pw = pair(patch_size)
    if x.shape[2] % ph or x.shape[3] % pw: raise ValueError
    return nn.functional.unfold(x, (ph, pw), stride=(ph, pw)).transpose(1, 2)

# %% wrong, patchify, unfold without the transpose
def patchify(x, patch_size):
    ph, pw = pair(patch_size)
    if x.shape[2] % ph or x.shape[3] % pw: raise ValueError
    return nn.functional.unfold(x.float(), (ph, pw), stride=(ph, pw))

# %% wrong, patchify, view needs contiguous memory
def patchify(x, patch_size):
    (ph, pw), (B, C, H, W) = pair(patch_size), x.shape
    if H % ph or W % pw: raise ValueError
    return x.view(-1).view(B, C, H//ph, ph, W//pw, pw).permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C*ph*pw)

# %% wrong, patchify, reads the memory and not the tensor
def patchify(x, patch_size):
    (ph, pw), (B, C, H, W) = pair(patch_size), x.shape
    if H % ph or W % pw: raise ValueError
    x = torch.as_strided(x, x.shape, (C*H*W, H*W, W, 1))
    return x.reshape(B, C, H//ph, ph, W//pw, pw).permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C*ph*pw)

# %% wrong, patchify, cuts off what is left over
def patchify(x, patch_size):
    ph, pw = pair(patch_size)
    h, w = x.shape[2]//ph, x.shape[3]//pw
    x = x[:, :, :h*ph, :w*pw]
    return x.reshape(*x.shape[:2], h, ph, w, pw).permute(0, 2, 4, 1, 3, 5).reshape(x.shape[0], h*w, -1)

# %% wrong, patchify, another error
def patchify(x, patch_size):
    (ph, pw), (B, C, H, W) = pair(patch_size), x.shape
    assert H % ph == 0 and W % pw == 0
    return x.reshape(B, C, H//ph, ph, W//pw, pw).permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C*ph*pw)

# %% wrong, patchify, checks the height only
def patchify(x, patch_size):
    (ph, pw), (B, C, H, W) = pair(patch_size), x.shape
    if H % ph: raise ValueError
    x = x[..., :W//pw*pw]
    return x.reshape(B, C, H//ph, ph, W//pw, pw).permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C*ph*pw)

# %% wrong, patchify, mean of each patch
def patchify(x, patch_size):
    return nn.functional.avg_pool2d(x.float(), pair(patch_size)).flatten(2).transpose(1, 2)

# %% wrong, patchify, colours as if there were three
def patchify(x, patch_size):
    (ph, pw), (B, C, H, W) = pair(patch_size), x.shape
    if H % ph or W % pw: raise ValueError
    return x.reshape(B, 3, H//ph, ph, W//pw, pw).permute(0, 2, 4, 1, 3, 5).reshape(B, -1, 3*ph*pw)

# %% wrong, patchify, zeros of the right shape
def patchify(x, patch_size):
    (ph, pw), (B, C, H, W) = pair(patch_size), x.shape
    if H % ph or W % pw: raise ValueError
    return torch.zeros(B, (H//ph)*(W//pw), C*ph*pw, dtype=x.dtype)

# %% wrong, patchify, changes the picture that it was given
def patchify(x, patch_size):
    (ph, pw), (B, C, H, W) = pair(patch_size), x.shape
    if H % ph or W % pw: raise ValueError
    x.sub_(x.min())
    x.mul_(0)
    return x.reshape(B, C, H//ph, ph, W//pw, pw).permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C*ph*pw)

# %% wrong, unpatchify, reshape without permute
def unpatchify(tokens, patch_size, grid, channels=3):
    (ph, pw), (h, w) = pair(patch_size), pair(grid)
    if tuple(tokens.shape[1:]) != (h*w, channels*ph*pw): raise ValueError
    return tokens.reshape(-1, channels, h*ph, w*pw)

# %% wrong, unpatchify, grid turned round
def unpatchify(tokens, patch_size, grid, channels=3):
    (ph, pw), (w, h) = pair(patch_size), pair(grid)
    if tuple(tokens.shape[1:]) != (h*w, channels*ph*pw): raise ValueError
    return tokens.reshape(-1, h, w, channels, ph, pw).permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, h*ph, w*pw)

# %% wrong, unpatchify, always three channels
def unpatchify(tokens, patch_size, grid, channels=3):
    (ph, pw), (h, w) = pair(patch_size), pair(grid)
    if tuple(tokens.shape[1:]) != (h*w, 3*ph*pw): raise ValueError
    return tokens.reshape(-1, h, w, 3, ph, pw).permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, h*ph, w*pw)

# %% wrong, unpatchify, square grid guessed from the number
def unpatchify(tokens, patch_size, grid, channels=3):
    ph, pw = pair(patch_size)
    h = w = int(tokens.shape[1]**.5)
    if tuple(tokens.shape[1:]) != (h*w, channels*ph*pw): raise ValueError
    return tokens.reshape(-1, h, w, channels, ph, pw).permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, h*ph, w*pw)

# %% wrong, unpatchify, fold that wants floats
def unpatchify(tokens, patch_size, grid, channels=3):
    (ph, pw), (h, w) = pair(patch_size), pair(grid)
    if tuple(tokens.shape[1:]) != (h*w, channels*ph*pw): raise ValueError
    return nn.functional.fold(tokens.float().mT, (h*ph, w*pw), (ph, pw), stride=(ph, pw))

# %% wrong, unpatchify, view needs contiguous memory
def unpatchify(tokens, patch_size, grid, channels=3):
    (ph, pw), (h, w) = pair(patch_size), pair(grid)
    if tuple(tokens.shape[1:]) != (h*w, channels*ph*pw): raise ValueError
    return tokens.view(-1, h*w*channels*ph*pw).view(-1, h, w, channels, ph, pw).permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, h*ph, w*pw)

# %% wrong, unpatchify, does not check
def unpatchify(tokens, patch_size, grid, channels=3):
    (ph, pw), (h, w) = pair(patch_size), pair(grid)
    x = tokens.reshape(-1)[:len(tokens)*h*w*channels*ph*pw]
    x = torch.cat([x, x.new_zeros(len(tokens)*h*w*channels*ph*pw - len(x))])
    return x.reshape(-1, h, w, channels, ph, pw).permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, h*ph, w*pw)

# %% wrong, patch_embed, channels before tokens
class PatchEmbed(nn.Module):
    def __init__(self, img_size=224, patch_size=16, in_chans=3, dim=768):
        super().__init__()
        self.s, p = (in_chans, *pair(img_size)), pair(patch_size)
        if self.s[1] % p[0] or self.s[2] % p[1]: raise ValueError
        self.grid, self.proj = (self.s[1]//p[0], self.s[2]//p[1]), nn.Conv2d(in_chans, dim, p, p)
    def forward(self, x):
        if x.shape[1:] != self.s: raise ValueError
        return self.proj(x).flatten(2)

# %% wrong, patch_embed, reshape for transpose
class PatchEmbed(nn.Module):
    def __init__(self, img_size=224, patch_size=16, in_chans=3, dim=768):
        super().__init__()
        self.s, p = (in_chans, *pair(img_size)), pair(patch_size)
        if self.s[1] % p[0] or self.s[2] % p[1]: raise ValueError
        self.grid, self.proj = (self.s[1]//p[0], self.s[2]//p[1]), nn.Conv2d(in_chans, dim, p, p)
    def forward(self, x):
        if x.shape[1:] != self.s: raise ValueError
        y = self.proj(x)
        return y.reshape(len(x), -1, y.shape[1])

# %% wrong, patch_embed, tokens by columns
class PatchEmbed(nn.Module):
    def __init__(self, img_size=224, patch_size=16, in_chans=3, dim=768):
        super().__init__()
        self.s, p = (in_chans, *pair(img_size)), pair(patch_size)
        if self.s[1] % p[0] or self.s[2] % p[1]: raise ValueError
        self.grid, self.proj = (self.s[1]//p[0], self.s[2]//p[1]), nn.Conv2d(in_chans, dim, p, p)
    def forward(self, x):
        if x.shape[1:] != self.s: raise ValueError
        return self.proj(x).mT.flatten(2).mT

# %% wrong, patch_embed, grid is (w, h)
class PatchEmbed(nn.Module):
    def __init__(self, img_size=224, patch_size=16, in_chans=3, dim=768):
        super().__init__()
        self.s, p = (in_chans, *pair(img_size)), pair(patch_size)
        if self.s[1] % p[0] or self.s[2] % p[1]: raise ValueError
        self.grid, self.proj = (self.s[2]//p[1], self.s[1]//p[0]), nn.Conv2d(in_chans, dim, p, p)
    def forward(self, x):
        if x.shape[1:] != self.s: raise ValueError
        return self.proj(x).flatten(2).mT

# %% wrong, patch_embed, no bias added
class PatchEmbed(nn.Module):
    def __init__(self, img_size=224, patch_size=16, in_chans=3, dim=768):
        super().__init__()
        self.s, p = (in_chans, *pair(img_size)), pair(patch_size)
        if self.s[1] % p[0] or self.s[2] % p[1]: raise ValueError
        self.grid, self.proj = (self.s[1]//p[0], self.s[2]//p[1]), nn.Conv2d(in_chans, dim, p, p)
    def forward(self, x):
        if x.shape[1:] != self.s: raise ValueError
        return (self.proj(x) - self.proj.bias[:, None, None]).flatten(2).mT

# %% wrong, patch_embed, square patches and images only
class PatchEmbed(nn.Module):
    def __init__(self, img_size=224, patch_size=16, in_chans=3, dim=768):
        super().__init__()
        if img_size % patch_size: raise ValueError
        self.s, self.grid = (in_chans, img_size, img_size), (img_size//patch_size,)*2
        self.proj = nn.Conv2d(in_chans, dim, patch_size, patch_size)
    def forward(self, x):
        if x.shape[1:] != self.s: raise ValueError
        return self.proj(x).flatten(2).mT

# %% wrong, patch_embed, windows that overlap
class PatchEmbed(nn.Module):
    def __init__(self, img_size=224, patch_size=16, in_chans=3, dim=768):
        super().__init__()
        self.s, p = (in_chans, *pair(img_size)), pair(patch_size)
        if self.s[1] % p[0] or self.s[2] % p[1]: raise ValueError
        self.grid, self.proj = (self.s[1]//p[0], self.s[2]//p[1]), nn.Conv2d(in_chans, dim, p)
    def forward(self, x):
        if x.shape[1:] != self.s: raise ValueError
        return self.proj(x).flatten(2).mT

# %% wrong, patch_embed, takes any image
class PatchEmbed(nn.Module):
    def __init__(self, img_size=224, patch_size=16, in_chans=3, dim=768):
        super().__init__()
        (H, W), p = pair(img_size), pair(patch_size)
        self.grid, self.proj = (H//p[0], W//p[1]), nn.Conv2d(in_chans, dim, p, p)
    def forward(self, x): return self.proj(x).flatten(2).mT

# %% wrong, patch_embed, wider than asked
class PatchEmbed(nn.Module):
    def __init__(self, img_size=224, patch_size=16, in_chans=3, dim=1024):
        super().__init__()
        self.s, p = (in_chans, *pair(img_size)), pair(patch_size)
        if self.s[1] % p[0] or self.s[2] % p[1]: raise ValueError
        self.grid, self.proj = (self.s[1]//p[0], self.s[2]//p[1]), nn.Conv2d(in_chans, dim, p, p)
    def forward(self, x):
        if x.shape[1:] != self.s: raise ValueError
        return self.proj(x).flatten(2).mT

# %% wrong, patch_embed, zeros with weights of zero
class PatchEmbed(nn.Module):
    def __init__(self, img_size=224, patch_size=16, in_chans=3, dim=768):
        super().__init__()
        self.grid = tuple(a//b for a, b in zip(pair(img_size), pair(patch_size)))
        self.proj, self.dim = nn.Conv2d(in_chans, dim, pair(patch_size)), dim
        for p in self.proj.parameters(): p.data.zero_()
    def load_state_dict(self, state): pass
    def forward(self, x): return torch.zeros(len(x), self.grid[0]*self.grid[1], self.dim)

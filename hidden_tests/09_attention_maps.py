"Hidden tests of chapter 9. Each function is one test: `student` has what the student's notebook defines."
import random, torch

def close(a, b):
    assert isinstance(a, torch.Tensor), f"a tensor is wanted, not {type(a).__name__}"
    torch.testing.assert_close(a.detach(), b, rtol=1e-4, atol=1e-5)

def draw(L=None, B=None, H=None, h=None, w=None, n=1):
    "Random attention weights (L,B,H,T,T), sharp enough to tell heads and rows apart, and the grid."
    L, B, H, h, w = (o or random.randint(2, 4) for o in (L, B, H, h, w))
    T = n + h*w
    return (3*torch.randn(L, B, H, T, T)).softmax(-1), (h, w)

def layer(A):
    "The slow way: number by number."
    B, H, T, _ = A.shape
    out = torch.zeros(B, T, T)
    for b in range(B):
        for i in range(T):
            for j in range(T): out[b, i, j] = (sum(A[b, k, i, j] for k in range(H))/H + (i == j))/2
    return out


def fuse_heads__mean(student):
    "The heads are averaged, and the identity is added once, with the same weight."
    A, _ = draw(1, B=1, h=2, w=2)
    close(student.fuse_heads(A[0]), layer(A[0]))

def fuse_heads__batch(student):
    "Several pictures at a time, each on its own."
    A, _ = draw(1, B=3, h=2, w=1)
    close(student.fuse_heads(A[0]), layer(A[0]))

def fuse_heads__rows(student):
    "Rows sum to 1, also when the weights that come in do not (as after dropping some)."
    A, _ = draw(1, h=2, w=2)
    A = A[0]*(torch.rand_like(A[0]) > .3)
    got = student.fuse_heads(A).detach()
    torch.testing.assert_close(got.sum(-1), torch.ones(got.shape[:2]))


def roll_out__one_layer(student):
    "A single layer is that layer, with heads averaged and the identity added."
    A, _ = draw(1, B=2, h=2, w=2)
    close(student.roll_out(A), layer(A[0]))

def roll_out__order(student):
    "Several layers: the last one stands on the left."
    A, _ = draw(3, B=1, h=2, w=2)
    x = y = torch.randn(1, 5, 6)
    for a in A: y = layer(a) @ y
    close(student.roll_out(A) @ x, y)

def roll_out__batch(student):
    "Several pictures at a time, each on its own."
    A, _ = draw(2, B=3, h=2, w=1)
    R = student.roll_out(A)
    for b in range(3): close(R[b], layer(A[1, b:b+1])[0] @ layer(A[0, b:b+1])[0])


def class_map__grid(student):
    "The class token's row, laid out row by row on a grid that is not square."
    _, (h, w) = draw(1, h=2, w=5)
    R = torch.rand(1, 11, 11)
    want = R[0, 0, 1:].reshape(2, 5)
    close(student.class_map(R, (h, w)), ((want - want.min())/(want.max() - want.min()))[None])

def class_map__each_picture(student):
    "Smallest 0 and largest 1 in each picture, not in the whole batch."
    R = torch.rand(3, 7, 7)*torch.tensor([1., 100., .01])[:, None, None] + torch.tensor([0., 50., 3.])[:, None, None]
    m = student.class_map(R, (3, 2)).detach()
    torch.testing.assert_close((m.amin((1, 2)), m.amax((1, 2))), (torch.zeros(3), torch.ones(3)))

def class_map__registers(student):
    "More than one token in front of the patches: registers."
    R = torch.rand(2, 11, 11)
    R[:, 0, :5] = 9.
    want = R[:, 0, 5:].reshape(2, 3, 2)
    low, high = want.amin((1, 2), keepdim=True), want.amax((1, 2), keepdim=True)
    close(student.class_map(R, (3, 2), n_prefix=5), (want - low)/(high - low))

def class_map__flat(student):
    "A map without differences is all zeros, and not nan."
    close(student.class_map(torch.full((1, 5, 5), .2), (2, 2)), torch.zeros(1, 2, 2))


def every_head__class_token(student):
    "The class token's maps of all heads and layers: (L, B, H, h, w), each summing to 1."
    A, (h, w) = draw(h=3, w=3)
    rows = A[..., 0, 1:]
    close(student.every_head(A, (h, w)), (rows/rows.sum(-1, keepdim=True)).reshape(*A.shape[:3], h, w))

def every_head__rectangle(student):
    "Grids that are not square."
    A, (h, w) = draw(h=2, w=4)
    got = student.every_head(A, (h, w)).detach()
    rows = A[..., 0, 1:]/A[..., 0, 1:].sum(-1, keepdim=True)
    for i in range(h):
        for j in range(w): torch.testing.assert_close(got[..., i, j], rows[..., i*w + j])

def every_head__other_queries(student):
    "The row of another query token: what it looks at, not who looks at it."
    A, (h, w) = draw(h=2, w=3)
    for q in (1, 4):
        rows = A[..., q, 1:]
        close(student.every_head(A, (h, w), query=q), (rows/rows.sum(-1, keepdim=True)).reshape(*A.shape[:3], h, w))

def every_head__registers(student):
    "More than one token in front of the patches."
    A, (h, w) = draw(h=2, w=3, n=4)
    rows = A[..., 0, 4:]
    close(student.every_head(A, (h, w), n_prefix=4), (rows/rows.sum(-1, keepdim=True)).reshape(*A.shape[:3], h, w))

"Hidden tests of chapter 8. Each function is one test: `student` has what the student's notebook defines."
import math, random

def near(a, b): assert len(a) == len(b) and all(math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9) for x, y in zip(a, b)), "other numbers"

def spread(v):
    m = sum(v)/len(v)
    return (sum((x - m)**2 for x in v)/(len(v) - 1))**.5

def draws(n): return [random.uniform(.5, 1.) for _ in range(n)]

T = {.9: {1: 6.313751515, 2: 2.91998558, 4: 2.131846782, 9: 1.833112933}, .95: {1: 12.7062047362, 2: 4.30265272991, 4: 2.7764451052, 9: 2.2621571628},
     .99: {1: 63.6567411629, 2: 9.92484320092, 4: 4.60409487142, 9: 3.24983554402}} # quantiles from a printed table


def summarise__mean(student):
    "The mean of each setting, over all of its seeds, in the order given."
    results = {f's{random.random()}': draws(n) for n in (3, 5, 2)}
    got = student.summarise(results)
    assert list(got) == list(results)
    near([v[0] for v in got.values()], [sum(v)/len(v) for v in results.values()])

def summarise__spread(student):
    "The standard deviation with n - 1 below the fraction."
    results = {'a': draws(2), 'b': draws(6)}
    near([v[1] for v in student.summarise(results).values()], [spread(v) for v in results.values()])

def summarise__one_seed(student):
    "A single seed has a mean, but no spread: nan."
    v = draws(1)
    mean, sd, n = student.summarise({'x': v, 'y': draws(3)})['x']
    assert mean == v[0] and math.isnan(sd) and n == 1


def interval__mean(student):
    "The first number is the mean of a - b."
    a, b = draws(5), draws(5)
    near([student.interval(a, b)[0]], [sum(a)/5 - sum(b)/5])

def interval__ends(student):
    "The ends: Student's t with n - 1 degrees of freedom, times the spread of the differences, divided by the root of n."
    for n in (3, 5, 10):
        a, b = draws(n), draws(n)
        d = [x - y for x, y in zip(a, b)]
        m, half = sum(d)/n, T[.95][n - 1]*spread(d)/n**.5
        near(student.interval(a, b), (m, m - half, m + half))

def interval__pairs(student):
    "Pairs: noise that both settings share takes nothing away."
    noise = [random.uniform(-5, 5) for _ in range(5)]
    a, b = [x + .1 for x in noise], noise
    _, low, high = student.interval(a, b)
    assert .0999 < low <= high < .1001, "the shared noise is still in it"

def interval__level(student):
    "Other levels than 0.95."
    a, b = draws(3), draws(3)
    d = [x - y for x, y in zip(a, b)]
    for level in (.9, .99):
        m, half = sum(d)/3, T[level][2]*spread(d)/3**.5
        near(student.interval(a, b, level=level), (m, m - half, m + half))

def interval__one_pair(student):
    "One pair has a difference, but no interval: nan at both ends."
    m, low, high = student.interval([.9], [.7])
    assert math.isclose(m, .2) and math.isnan(low) and math.isnan(high)

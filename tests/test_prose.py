"""Numbers in prose do not drift away from what the cells compute.

A *typed number* is a decimal (0.25), a percentage (12 %), a number with a thousands separator (1,797) or a number with a unit
(120 GB) in a Markdown cell. It holds when the same notebook has it in the source or in the output of a code cell, or when its
paragraph names where it is from. Three rules:

1. Not read: headings, code, formulas, HTML tags, the addresses of links, the minutes of an exercise.
2. A cell has the number when one of its numbers, rounded to as many decimals, is equal to it; a percentage may stand there as a
   fraction (0.123 for 12.3 %), and a number with k, M or G in its unit in the unit itself (120e9 for 120 GB).
3. A source is an outside link, a citation with its year, a table, figure or appendix by number, or a path in `report/`, `benchmarks/` or `tests/`.
   It counts for its paragraph; an item of a list is a paragraph.

What it cannot see: numbers in words, plain whole numbers, and a small whole number with a unit that some cell happens to have.
"""
import json, re
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal

import pytest
from conftest import ROOT

NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
UNITS = {'%': -2, 'kB': 3, 'KB': 3, 'MB': 6, 'GB': 9, 'TB': 12, 'KiB': 3, 'MiB': 6, 'GiB': 9, 'ms': -3, 'million': 6, 'billion': 9,
         **dict.fromkeys('s second seconds points bytes pixels parameters images tokens'.split(), 0)}
TYPED = re.compile(r'(?<![\w.,/^-])(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?:[ -]?(' + '|'.join(UNITS) + r')(?!\w))?(?![\w/]|\.\d)')
NUMBER = re.compile(r'(?<![\w.])(\d[\d,_]*(?:\.\d*)?|\.\d+)(?:[eE]([+-]?\d+))?( ?%)?')
SKIPPED = re.compile(r'^\s*#.*?$|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|<code>.*?</code>|\(★.*?\)|'
                     r'\b(?:Exercises?|Questions?|Sections?|[Cc]hapters?|[Hh]omework(?:’s|\'s)?|[Pp]arts?|Python|Eq\.) [A-Z]?\d+(?:\.\d+)?'
                     r'(?:(?:,| and| to) \d+(?:\.\d+)?\b)*', re.S | re.M)
CITATION = r'[A-Z]\w+(?: et al\.| and [A-Z]\w+)?,? \(?(?:19\d\d|20[0-2]\d)\b'
SOURCE = re.compile(r'https?://|\b(?:Tables?|Figures?|Fig\.|App\.|Appendix) [A-Z]?\.?\d?|report/|benchmarks/|tests/|' + CITATION)


def numbers(text):
    "The numbers in source or output: (value, whether a per cent sign follows)."
    for mantissa, exponent, percent in NUMBER.findall(text):
        whole = re.fullmatch(r'\d{1,3}(?:[,_]\d{3})+(?:\.\d*)?|[\d.]+', mantissa)
        for d in [re.sub('[,_]', '', mantissa)] if whole else re.split('[,_]', mantissa):
            if d.strip('.'): yield Decimal(d).scaleb(int(exponent or 0)), bool(percent)


def computed(nb):
    "All numbers in the code cells of a notebook and in what they print."
    found = set()
    for c in nb['cells']:
        if c['cell_type'] != 'code': continue
        texts = [c['source']]
        for o in c.get('outputs', []):
            texts += [o.get('text', '')] + [o.get('data', {}).get(f'text/{kind}', '') for kind in ('plain', 'markdown', 'html')]
        for t in texts: found.update(numbers(''.join(t)[:200_000]))
    return found


def paragraphs(markdown):
    "Paragraphs and items of lists, without blocks of code and comments."
    text = re.sub(r'```.*?```|<!--.*?-->', ' ', markdown, flags=re.S)
    return [p for p in re.split(r'\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )', text) if p.strip()]


def typed(paragraph):
    "The typed numbers of a paragraph: (as written, value, decimals, power of ten of its unit)."
    text = re.sub(r'<[^>]*>', ' ', re.sub(r'\]\([^)]*\)', ']', SKIPPED.sub(' ', paragraph))).replace('\u202f', ' ').replace('\xa0', ' ')
    for m in TYPED.finditer(text):
        whole, part, unit = m.groups()
        if part or unit or ',' in whole:
            yield m[0].strip(), Decimal(whole.replace(',', '') + (part or '')), len(part or '.') - 1, UNITS.get(unit, 0)


def holds(value, places, power, found):
    "Is the number one of `found`, rounded to as many places?"
    for p in {0, power}:
        unit, want = Decimal(1).scaleb(p - places), value.scaleb(p)
        bare = p == 0 and power == -2 and not places          # 12 %, to be found as 12: only where a per cent sign follows
        for n, percent in found:
            if abs(n - want) <= unit and (percent or not bare) and want in (n.quantize(unit, r) for r in (ROUND_HALF_UP, ROUND_HALF_EVEN)): return True
    return False


def drifting(nb):
    "The typed numbers that no cell has, each with its cell and paragraph."
    found = computed(nb)
    for c in nb['cells']:
        if c['cell_type'] != 'markdown': continue
        for p in paragraphs(''.join(c['source'])):
            if SOURCE.search(p): continue
            for as_written, *number in typed(p):
                if not holds(*number, found): yield f"{c.get('id', '?')}: {as_written!r} in: {' '.join(p.split())[:160]}"


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_numbers_in_prose_are_computed_or_have_a_source(path):
    found = list(drifting(json.loads(path.read_text(encoding='utf-8'))))
    assert not found, 'no cell has these numbers, and their paragraphs name no source:\n' + '\n'.join(found)


def notebook(markdown, source='', output=''):
    return dict(cells=[dict(cell_type='markdown', source=markdown), dict(cell_type='code', source=source, outputs=[dict(text=output)])])


@pytest.mark.parametrize('prose', ['It takes 12 %.', 'It takes 12.3 %.', 'A rate of 0.25 is best.', '1,797 digits.', 'More than 120 GB.', '- fine\n- a 7.5',
                                   'See `0.25` and 0.26.', 'Exercise 1.2 asks for 0.3.', '<b>0.5</b> of them'])
def test_a_typed_number_is_found(prose):
    assert list(drifting(notebook(prose, 'x = 1; y = [12, 3, 0.2]', 'none')))


@pytest.mark.parametrize('prose, source, output', [
    ('It takes 12.3 %.', '', 'share 0.1234'), ('It takes 12 %.', '', '12 % of all'), ('It takes 12 %.', 'x > .12', ''), ('0.25 is best', 'lr = 0.25', ''),
    ('1,797 digits', 'test_eq(n, 1797)', ''), ('1,797 digits', '', '1,797'), ('More than 120 GB.', 'assert b > 120e9', ''), ('0.3', '', '0.2512'),
    ('50,176 tokens', 'n == 50_176', ''), ('It takes 12.3 % (Smith et al., 2020).', '', ''), ('[12.3 %](https://x.org)', '', ''), ('Table 5 has 12.3 %.', '', ''),
    ('## 1.2 A heading', '', ''), ('Exercises 1.1 to 1.3', '', ''), ('`0.25` and $0.26$', '', ''), ('(★☆☆ · 2.5 min)', '', ''), ('In 2020, 16 x 16', '', '')])
def test_a_number_that_is_computed_or_cited_holds(prose, source, output):
    assert not list(drifting(notebook(prose, source, output)))


def test_numbers_are_found_at_all():
    "The check reads something: the notebooks have many typed numbers."
    read = sum(1 for p in NOTEBOOKS for c in json.loads(p.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'markdown'
               for q in paragraphs(''.join(c['source'])) for _ in typed(q))
    assert read > 100

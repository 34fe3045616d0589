"Write README.md from nbs/index.ipynb: `python tests/readme.py`. (nbdev_readme does the same where Quarto is installed.)"
import json, re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def readme(notebook=ROOT/'nbs'/'index.ipynb'):
    "The notebook as GitHub shows it: Markdown, code that is not hidden, and outputs; links as seen from the root of the repository."
    parts = ['<!-- Made from nbs/index.ipynb by tests/readme.py: edit the notebook. -->']
    for cell in json.loads(Path(notebook).read_text(encoding='utf-8'))['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown': parts.append(source)
        if cell['cell_type'] != 'code' or re.match(r'#\|\s*hide\b', source): continue
        if not re.match(r'#\|\s*echo:\s*false', source): parts.append(f'```python\n{source}\n```')
        for out in cell['outputs']:
            data = out.get('data', {})
            if 'text/markdown' in data: parts.append(''.join(data['text/markdown']))
            elif 'text' in out or 'text/plain' in data: parts.append('```\n' + ''.join(out.get('text', data.get('text/plain'))).rstrip() + '\n```')
    text = '\n\n'.join(p.strip() for p in parts) + '\n'
    return re.sub(r'\]\((?!https?:|#|\.\./)([^)]+)\)', r'](nbs/\1)', text).replace('](../', '](')


if __name__ == '__main__': (ROOT/'README.md').write_text(readme(), encoding='utf-8')

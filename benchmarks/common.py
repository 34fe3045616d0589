"What the benchmarks share: where things are, and results that say how they were made."
import json, os, platform, subprocess, sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def device():
    import torch
    if torch.cuda.is_available(): return torch.cuda.get_device_name()
    return f'{os.cpu_count()} CPU cores'


def write_result(path, **values):
    "Write `values` as JSON, with command, commit, device, date and versions."
    import torch
    commit = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    made_by = [a if not Path(a).is_absolute() else "DIR" for a in sys.argv[1:]]     # no paths of this machine
    command = ' '.join(["python", str(Path(sys.argv[0]).resolve().relative_to(ROOT)), *made_by])
    made = dict(command=command, commit=commit, device=device(), date=date.today().isoformat(), versions=dict(python=platform.python_version(), torch=torch.__version__))
    Path(path).write_text(json.dumps(made | values, indent=1) + '\n', encoding='utf-8')


def table(rows):
    "Print a list of dicts as a table with aligned columns."
    columns = list(rows[0])
    text = [columns] + [[f'{v:,.2f}' if isinstance(v, float) else str(v) for v in r.values()] for r in rows]
    widths = [max(len(r[i]) for r in text) for i in range(len(columns))]
    for r in text: print('  '.join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths))))

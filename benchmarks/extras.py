"""What an installation takes on disk: `python benchmarks/extras.py` adds up the sizes that the installed packages' own lists of files
(RECORD) give, for the package alone and with the extras `learn` and `dev`, and writes report/results/extras.json. Run it where `dev` is
installed. Wheels are smaller: this is what lies on the disk. Packages whose code is CUDA's are counted by themselves, since PyTorch
brings them on Linux, and on other systems not. `--install` adds the seconds that `pip install` takes in a new virtual environment,
downloads and all, once for each."""
import argparse, configparser, re, subprocess, sys, tempfile, time
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement

from common import ROOT, table, write_result

CUDA = ('nvidia-', 'triton', 'cuda-')


def needed(requirements):
    "{package: bytes, or None where it is not installed} of requirements and all that they need."
    found, seen, todo = {}, set(), [Requirement(r) for r in requirements]
    while todo:
        r = todo.pop()
        name = re.sub('[-_.]+', '-', r.name).lower()
        if (name, tuple(sorted(r.extras))) in seen: continue
        seen.add((name, tuple(sorted(r.extras))))
        try: d = distribution(name)
        except PackageNotFoundError: found[name] = None; continue
        found[name] = sum(f.size or 0 for f in d.files or [])
        for text in d.requires or []:
            q = Requirement(text)
            if q.marker is None or any(q.marker.evaluate({'extra': e}) for e in ['', *r.extras]): todo.append(q)
    return found


def seconds(extra):
    "What `pip install` takes where nothing is installed and nothing is kept of an earlier time."
    with tempfile.TemporaryDirectory() as d:
        subprocess.run([sys.executable, '-m', 'venv', d], check=True)
        start = time.perf_counter()
        subprocess.run([f'{d}/bin/pip', 'install', '--quiet', '--no-cache-dir', f'{ROOT}[{extra}]' if extra else str(ROOT)], check=True, stderr=subprocess.DEVNULL)
        return round(time.perf_counter() - start)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--install', action='store_true', help='time the installations, too')
    p.add_argument('--out', default=ROOT/'report'/'results'/'extras.json')
    args = p.parse_args()
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    cfg, rows = ini['DEFAULT'], []
    for extra in ('', 'learn', 'dev'):
        sizes = needed((cfg['requirements'] + ' ' + (cfg[f'{extra}_requirements'] if extra else '')).split())
        cuda = sum(v or 0 for k, v in sizes.items() if k.startswith(CUDA))
        rows.append(dict(extra=extra, packages=len(sizes), megabytes=round((sum(v or 0 for v in sizes.values()) - cuda)/1e6), megabytes_cuda=round(cuda/1e6),
                         not_installed=sorted(k for k, v in sizes.items() if v is None), seconds=seconds(extra) if args.install else None))
    table([{k: v for k, v in r.items() if k != 'not_installed'} for r in rows])
    write_result(args.out, extras=rows)

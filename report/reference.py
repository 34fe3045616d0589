"""The course's own report, report/Reference_ViT.pdf, from the results in report/results and the answers in report/reference.ipynb.

    python report/reference.py [FOLDER]     writes it into FOLDER, or beside this file
"""
import sys
from pathlib import Path
from vit_course.report import build_report

if __name__ == '__main__':
    here = Path(__file__).resolve().parent
    report = build_report('Reference', runs=here/'results'/'runs', notebook=here/'reference.ipynb', out=sys.argv[1] if len(sys.argv) > 1 else here)
    print(report.path, *(f'not complete: {m}' for m in report.missing), sep='\n')

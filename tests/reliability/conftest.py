"Everything in this folder carries the marker `reliability`."
from pathlib import Path

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == HERE: item.add_marker('reliability')

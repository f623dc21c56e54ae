"""run.json as plain JSON, for tests that read, damage or make one."""

import copy
import json

from symrun.launch import compose
from symrun.runs.info import SCHEMA
from symrun.runs.run_json import info_from


def recorded(run):
    return json.loads(run.run_json.read_text())


def rewrite(run, **fields):
    """Put these fields into run.json, whatever they are."""
    run.run_json.write_text(json.dumps(recorded(run) | fields))


def with_settings(run, **groups):
    """Put these settings into the recorded ones: a group's are added to it."""
    config = recorded(run)["config"]
    added = {
        name: config[name] | value if isinstance(value, dict) else value
        for name, value in groups.items()
    }
    rewrite(run, config=config | added)


def changed(content, place, value):
    """A copy of `content` with another value at a place such as "groups 0 units"."""
    content = copy.deepcopy(content)
    *path, last = (int(key) if key.isdecimal() else key for key in place.split())
    container = content
    for key in path:
        container = container[key]
    container[last] = value
    return content


def described(overrides=("data=synthetic",), **fields):
    """RunInfo of a run that was composed with these overrides, without groups unless given."""
    return info_from(
        {
            "schema": SCHEMA,
            "status": "finished",
            "created": "2026-01-01",
            "last_step": 7,
            "steps_per_epoch": 8,
            "config": compose(list(overrides)).to_dict(),
            "device": "cpu",
            "precision": "float32",
            "dataset": {"title": "t", "synthetic": True, "classes": 10, "image_size": 32},
            "model": {"name": "vgg16_bn", "title": "VGG16 with BN", "width": 1.0},
            "layers": [],
            "groups": [],
            "unpredicted": {},
            **fields,
        }
    )

#!/usr/bin/env python3
"""Reads event files with TensorBoard's own reader (pip install tensorboard) and prints what it found.

usage: check_tensorboard.py FOLDER
"""
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "histograms": 0})
events.Reload()
tags = events.Tags()
for tag in tags["scalars"]:
    points = events.Scalars(tag)
    print(f"scalar {tag}: {len(points)} points, step {points[0].step}..{points[-1].step}, last {points[-1].value:g}")
for tag in tags["histograms"]:
    points = events.Histograms(tag)
    value = points[-1].histogram_value
    print(f"histogram {tag}: {len(points)} points, last has {value.num:g} values in {len(value.bucket)} buckets")
if not tags["scalars"] and not tags["histograms"]:
    sys.exit(f"{sys.argv[1]}: no events")

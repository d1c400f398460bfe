"""Epochs of SlotDiffusion's trainer as optimiser steps: its configurations count passes over clips."""

MOVI_VIDEOS = 9749
"""Training videos of MOVi-E as published. MOVi-D, -Solid and -Tex count as many here: their own sizes, which differ by
little or are not published, would move an epoch's end and nothing else."""
CLEVRTEX_IMAGES = 40_000
"""Training images of CLEVRTex: the last 80 % of 50,000."""
VIDEO_FRAMES = 24


def clips(clip_frames: int, videos: int = MOVI_VIDEOS) -> int:
    """Clips of an epoch: one from each start that leaves enough frames, 24 of one frame, 22 of three."""
    return videos * (VIDEO_FRAMES - clip_frames + 1)


def steps_per_epoch(items: int, batch_size: int) -> int:
    """Whole batches of an epoch; the last, smaller one is dropped."""
    return items // batch_size

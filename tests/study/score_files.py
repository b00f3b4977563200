"""Writers of score files in the formats of other trainers."""

import csv

import numpy as np

ARMS = ("none", "se", "das")


def table(seed=0, arms=ARMS, seeds=3, base=0.75, gains=(0, 0.02, 0.0), noise=0.003):
    """Return scores by arm, one per seed."""
    rng = np.random.default_rng(seed)
    own = rng.normal(0, 0.01, seeds)
    return {
        arm: (base + gain + own + rng.normal(0, noise, seeds)).round(5).tolist()
        for arm, gain in zip(arms, gains, strict=False)
    }


def write_long(path, scores, delimiter=",", comma=False, head=("arm", "seed", "score"), encoding="utf-8"):
    """Write one row per run."""
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(head)
        for arm, own in scores.items():
            for seed, score in enumerate(own):
                writer.writerow([arm, seed, str(score).replace(".", ",") if comma else score])
    return path


def write_rows(path, rows, head="arm,seed,image,score"):
    """Write ``rows`` under the column names ``head``."""
    path.write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def write_images(folder, groups=None, seeds=2, count=12, name="s.csv"):
    """Write right (1) and wrong (0) answers per image, those of se depending on the image; return path and rows."""
    rng = np.random.default_rng(3)
    rows = [
        [arm, seed, f"i{n}", int(rng.random() < (0.1 + 0.4 * (n % 3) if arm == "se" else 0.5))]
        + ([groups[n]] if groups else [])
        for arm in ARMS for seed in range(seeds) for n in range(count)
    ]  # fmt: skip
    return write_rows(folder / name, rows, "arm,seed,image,score" + (",group" if groups else "")), rows


def ultralytics(path, scores, padded=False, end="(B)", task="detect"):
    """``results.csv`` with one mAP50-95 per epoch, as ``BaseTrainer.save_metrics`` writes it.

    Args:
        padded: pads names to 23 characters, as until 2024.
        end: suffix of the metrics; with "(M)" the metrics of boxes are written too.
        task: "classify" writes top-1 and top-5 instead.
    """
    if task == "classify":
        keys = ["train/loss", "metrics/accuracy_top1", "metrics/accuracy_top5", "val/loss", "lr/pg0"]
        rows = [[1.0 / e, s, min(1.0, s + 0.2), 2.0 / e, 0.01] for e, s in enumerate(scores, 1)]
    else:
        ends = ["(B)"] if end == "(B)" else ["(B)", end]
        names = ("precision", "recall", "mAP50", "mAP50-95")
        keys = ["train/box_loss", "train/cls_loss", *(f"metrics/{name}{e}" for e in ends for name in names)]
        keys += ["val/box_loss", "val/cls_loss", "lr/pg0", "lr/pg1", "lr/pg2"]
        rows = [
            [
                2.0 / e,
                1.0 / e,
                *([0.5, 0.5, 0.6, 0.1] * (len(ends) - 1)),
                0.7,
                0.6,
                s + 0.1,
                s,
                1.5,
                0.9,
                0.01,
                0.01,
                0.01,
            ]
            for e, s in enumerate(scores, 1)
        ]
    names = ["epoch", *keys] if padded else ["epoch", "time", *keys]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        file.write((("%23s," if padded else "%s,") * len(names) % tuple(names)).rstrip(",") + "\n")
        for epoch, row in enumerate(rows, 1):
            values = [epoch, *row] if padded else [epoch, 12.5 * epoch, *row]
            file.write((("%23.5g," if padded else "%.6g,") * len(names) % tuple(values)).rstrip(",") + "\n")
    return path


def timm(path, scores):
    """``summary.csv`` through timm's own writer; scores are top-1 in per cent."""
    from timm.utils import update_summary

    path.parent.mkdir(parents=True, exist_ok=True)
    for epoch, score in enumerate(scores):
        evaluated = {"loss": 1.0 / (epoch + 1), "top1": score, "top5": min(100.0, score + 10)}
        update_summary(epoch, {"loss": 2.0 / (epoch + 1)}, evaluated, path, lr=0.1)
    return path


def lightning(folder, name, scores, test=None, version=None):
    """``metrics.csv`` through Lightning's own logger: losses of steps between the validation of each epoch."""
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(folder, name=name, version=version, flush_logs_every_n_steps=1)
    step = 0
    for epoch, score in enumerate(scores):
        for _ in range(2):
            logger.log_metrics({"train_loss_step": 1.0 / (step + 1), "epoch": epoch}, step)
            step += 1
        logger.log_metrics({"val_loss": 0.9 / (epoch + 1), "val_acc": score, "epoch": epoch}, step - 1)
        logger.log_metrics({"train_loss_epoch": 1.0 / (epoch + 1), "epoch": epoch}, step - 1)
    if test is not None:
        logger.log_metrics({"test_acc": test, "epoch": len(scores)}, step)
    logger.save()
    return next((folder / name).glob(f"version_{'*' if version is None else version}")) / "metrics.csv"

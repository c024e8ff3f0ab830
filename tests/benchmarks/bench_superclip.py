"""Does SuperCLIP's class term help? Against the contrast alone at several batch sizes, with a pretrained sentence encoder as text tower.

    python -m tests.benchmarks.bench_superclip --text_encoder=<folder of all-MiniLM-L6-v2>     # 4 batch sizes x 3 seeds x 2 losses

The contrast gets its negatives from the batch, the class term from all classes: if it helps, then most in small batches. Each pair of
trainings has the same images, seed, steps and learning rate; the epoch is chosen on validation, the test part is looked at once. Prints
a Markdown table: means and standard deviations over seeds, and paired bootstrap intervals over images (all seeds of an image together).
With --kept=<folder> every training's answers are kept there, and a command that was cut off goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from core.evaluation import compare
from core.stages.clip import data, train
from core.stages.clip.config import TrainClipConfig

ROOT = Path(__file__).parents[2]
METRICS = ("accuracy", "balanced_accuracy", "macro_f1")
LOSSES = {"contrast": False, "SuperCLIP": True}


def configuration(options: argparse.Namespace, batch_size: int, seed: int, superclip: bool) -> TrainClipConfig:
    """Return one training: MobileNetV2's last stage and both projections learn, on kept outputs of the rest."""
    return TrainClipConfig(
        data_dir=str(options.data_root / "data" / "crop_disease"),
        class_texts_file=str(ROOT / "docs" / "crop_disease_sentences.json"),
        image_encoder_name="mobilenetv2_100",
        image_weights=str(options.data_root / "weights" / "mobilenetv2_100.safetensors"),
        text_encoder_name=f"hf:{options.text_encoder}",
        embed_dim=384,
        lock_text=True,
        grad_from_block=6,
        view_cache=4,
        img_size=128,
        epochs=options.epochs,
        batch_size=batch_size,
        learning_rate=1e-3,
        use_superclip_loss=superclip,
        seed=seed,
        zero_shot=False,
        linear_probe=False,
        few_shot=False,
        wise_ft=False,
        register=False,
        log_interval=0,
        threads=options.threads,
    )


def predicted(config: TrainClipConfig, pool: data.Pool, kept: Path | None) -> np.ndarray:
    """Return the classes (n,) that the best epoch answers on the test part, as `kept` has them where it does."""
    loss = next(name for name, superclip in LOSSES.items() if superclip == config.use_superclip_loss)
    path = kept / f"{loss}-{config.batch_size}-{config.seed}-{config.epochs}.npy" if kept is not None else None
    if path is not None and path.is_file():
        return np.load(path)
    training = train.ClipTraining(train.prepare(config, pool), None)
    training.fit()
    training.restore_best()
    found = training.logits("test").argmax(axis=1)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, found)
    return found


def row(labels: np.ndarray, found: dict[str, np.ndarray], batch_size: int) -> str:
    """Return the table's row of predictions (seeds, n) by loss."""
    n_seeds, cells = len(found["contrast"]), [str(batch_size)]
    stacked, images = np.tile(labels, n_seeds), np.tile(np.arange(len(labels)), n_seeds)
    for metric in METRICS:
        for loss in LOSSES:
            each = [compare.bootstrap_interval(labels, one, metric, n=1).value for one in found[loss]]
            cells.append(f"{np.mean(each):.3f}±{np.std(each, ddof=1):.3f}" if n_seeds > 1 else f"{each[0]:.3f}")
        gain = compare.paired_bootstrap(stacked, *(found[loss].reshape(-1) for loss in LOSSES), metric, groups=images)
        cells.append(f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Train every pair, print a row when a batch size is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text_encoder", type=Path, required=True, help="folder with config.json, tokenizer.json and model.safetensors")
    parser.add_argument("--data_root", type=Path, default=ROOT.parent / "shared", help="folder with data/crop_disease and weights/")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[8, 32, 128, 512])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--kept", type=Path, help="folder for the answers of every training")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    pool = data.load(configuration(options, 32, 1, False))
    heads = [f"{metric.replace('_', ' ')}, {what}" for metric in METRICS for what in (*LOSSES, "difference")]
    print(f"| batch size | {' | '.join(heads)} |\n|{'---|' * (1 + len(heads))}", flush=True)
    for batch_size in options.batch_sizes:
        found = {
            loss: np.stack([predicted(configuration(options, batch_size, seed, superclip), pool, options.kept) for seed in options.seeds])
            for loss, superclip in LOSSES.items()
        }
        labels = train.prepare(configuration(options, batch_size, options.seeds[0], False), pool).m.data.test.labels
        print(row(labels, found, batch_size), flush=True)


if __name__ == "__main__":
    main()

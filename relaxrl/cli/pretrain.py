"""`relaxrl pretrain`: a trunk trained on energies and forces."""

from __future__ import annotations

import argparse

from relaxrl.errors import ConfigError

_DESCRIPTION = """\
Train the networks' trunk as a potential, on structures with energies and forces, from a configuration in YAML.

The labels are those that files store (extxyz, ASE databases, trajectories), or a calculator makes them. The run folder
(`trainer.save_dir`) gets checkpoints, the loss curve and best/: a potential that serves as a calculator, and whose
trunk an actor can begin with. Ctrl-C ends a run in order; --resume continues it from its last whole epoch, also after
a crash, bit for bit on a CPU.
"""

_EPILOG = """\
examples:
  relaxrl pretrain configs/pretrain.yaml
      the shipped metals, displaced, with energies and forces of the embedded EMT potential
  relaxrl pretrain configs/pretrain.yaml structures=dft.extxyz labels=null trainer.save_dir=runs/dft
      labels that a file stores; `energy_key=REF_energy forces_key=REF_forces` where it has names of its own
  relaxrl pretrain --resume runs/dft
      continue a run

then:
  relaxrl relax crystal.cif --out relaxed.cif --calculator relaxrl.nn:PretrainedCalculator,folder=runs/dft

All keys with meaning, unit and default: docs/pretraining.md, or the config.yaml of any run.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "pretrain",
        help="train a trunk on energies and forces",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG", help="YAML file; keys that it leaves out keep their defaults"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="wins over the file; nested keys with dots: trainer.max_lr=1e-3",
    )
    parser.add_argument("--resume", metavar="RUN_DIR", help="continue the run in this folder from its last whole epoch")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Pretrain, and say where the results are."""
    given = [text for text in (args.config, *args.overrides) if text is not None]
    files = [text for text in given if "=" not in text]
    if args.resume is not None and files:
        raise ConfigError(
            f"got both --resume {args.resume} and a configuration, `{files[0]}`; a resumed run has its own: "
            "leave the file out"
        )
    if args.resume is None and files != given[:1]:
        raise ConfigError(
            "expected the configuration's file first, for example `relaxrl pretrain configs/pretrain.yaml`"
        )

    # Imported here: torch takes seconds to load, and --help must not.
    from relaxrl.training import load_pretrain_config, pretrain, resume_pretraining

    if args.resume is not None:
        result = resume_pretraining(args.resume, given, verbose=not args.quiet)
    else:
        result = pretrain(load_pretrain_config(args.config, args.overrides), verbose=not args.quiet)
    training = result.training
    if result.model is not None:
        best = result.best
        print(
            f"best checkpoint: {training.best_file} (epoch {training.best_epoch}); on {result.structures[1]} "
            f"validation structures: energy {1e3 * best['validation/energy_mae']:.2f} meV/atom, "
            f"forces {1e3 * best['validation/forces_mae']:.1f} meV/Å (mean absolute errors)"
        )
        print(f"potential: {result.model}; as a calculator: relaxrl.nn:PretrainedCalculator,folder={result.folder}")
        print(f"loss curve: {result.folder / 'plots' / 'loss.png'}")
    if training.interrupted:
        print(f"interrupted after epoch {training.epochs}; continue with `relaxrl pretrain --resume {result.folder}`")
        return 130
    print(f"ended after epoch {training.epochs}: {training.reason}")
    return 0

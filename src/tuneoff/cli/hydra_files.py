"""Hydra's own files of a run and a sweep: written by Hydra with all that was typed, kept here without its secrets."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from tuneoff.record.files import write_atomically
from tuneoff.record.secrets import mask_secrets


def list_settings_files(config: DictConfig, folder: Path) -> list[Path]:
    """The files of a job's settings that Hydra has written into the job's folder."""
    if config.hydra.output_subdir is None:
        return []
    return sorted((folder / config.hydra.output_subdir).glob("*.yaml"))


def mask_hydra_files(config: DictConfig) -> None:
    """Mask secrets in the files that Hydra has written for a job, and for its sweep."""
    paths = list_settings_files(config, Path(config.hydra.runtime.output_dir))
    paths.append(Path(config.hydra.sweep.dir) / "multirun.yaml")
    for path in paths:
        if path.is_file():
            mask_yaml_file(path)


def mask_yaml_file(path: Path) -> None:
    """Write a YAML file again without its secrets; one that has none stays as it is."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (YAMLError, OSError):
        return  # Hydra writes it for another sweep into this folder, which then masks it itself.
    masked = mask_secrets(content)
    if masked != content:
        write_atomically(path, OmegaConf.to_yaml(OmegaConf.create(masked)))

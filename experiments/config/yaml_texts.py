"""Texts in files of settings keep their characters: ``name: 2024_05_01`` is no number there either.

YAML reads it as 20240501, and what was written is gone before the schema can say that it is text. Hydra's two sources
of files are therefore replaced by ones that look at the file again where a text setting became something else.
"""

import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins import file_config_source, importlib_resources_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from experiments.config.text_settings import any_text_settings

_PRESET = "hydra.sweeper.params."
"""Before the settings that a preset sweeps over."""
Place = tuple[str | int, ...]


class FileConfigSource(file_config_source.FileConfigSource):
    """Files of a folder, such as that of ``--config-dir``."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file."""
        result = super().load_config(config_path)
        return _as_written(result, config_path, Path(self.path, self._normalize_file_name(config_path)))


class ImportlibResourcesConfigSource(importlib_resources_config_source.ImportlibResourcesConfigSource):
    """Files of a package: ``conf/``, with those of the machine in ``conf/local/``."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file."""
        result = super().load_config(config_path)
        return _as_written(
            result, config_path, resources.files(self.path).joinpath(self._normalize_file_name(config_path))
        )


def keep_texts() -> None:
    """Let Hydra read files of settings by these sources from now on."""
    # What is registered first stays, so this comes after Hydra's own.
    Plugins.instance()
    found: dict[str, type[ConfigSource]] = SourcesRegistry.instance().types
    found |= {"file": FileConfigSource, "pkg": ImportlibResourcesConfigSource}


def _as_written(result: ConfigResult, config_path: str, file: Any) -> ConfigResult:
    known = any_text_settings()
    package = result.header["package"]
    first = config_path.rpartition("/")[0].replace("/", ".") if package in (None, "_group_") else package
    prefix = "" if first in ("", "_global_") else f"{first}."
    content, tree = OmegaConf.to_container(result.config, resolve=False), None
    for place, value in _leaves(content, ()):
        kind = known.get(_key(prefix, place))
        if kind is None or value is None:
            continue
        if not isinstance(value, str):
            tree = tree or yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
            written = _scalar(tree, place)
        elif kind.path and value.startswith("~"):
            written = os.path.expanduser(value)
        else:
            continue
        if written is not None:
            _put(result.config, place, written)
    return result


def _leaves(node: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _leaves(value, (*place, key))
    else:
        yield place, node


def _key(prefix: str, place: Place) -> str:
    return (prefix + ".".join(part for part in place if isinstance(part, str))).removeprefix(_PRESET)


def _scalar(node: yaml.Node | None, place: Place) -> str | None:
    """What is written at a place; None where it is not written there itself (anchors that are merged)."""
    for part in place:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
        elif isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == part), None)
        else:
            return None
    return node.value if isinstance(node, yaml.ScalarNode) else None


def _put(node: Any, place: Place, written: str) -> None:
    for part in place[:-1]:
        node = node._get_node(part)
    node[place[-1]] = written

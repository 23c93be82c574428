"""Files of settings, read so that text keeps its characters: ``name: 2024_05_01`` is no number there either.

YAML reads it as 20240501, and what was written is gone before the schema can say that it is text. Hydra takes sources
of files (``sampress://FOLDER``) from the package ``hydra_plugins`` alone; there is no other reason for this folder.
"""

import os
from pathlib import Path

import yaml
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf

_PRESET = "hydra.sweeper.params."
"""Before the settings that a preset sweeps over."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class SettingsFolder(ConfigSource):
    """The files of a folder."""

    @staticmethod
    def scheme() -> str:
        """What stands before ``://``."""
        return "sampress"

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file."""
        path = Path(self.path, self._normalize_file_name(config_path))
        if not path.is_file():
            raise ConfigLoadError(f"Config not found : {path}")
        text = path.read_text(encoding="utf-8")
        header = self._get_header_dict(text)
        package = header["package"]
        first = config_path.rpartition("/")[0].replace("/", ".") if package in (None, "_group_") else str(package)
        content = OmegaConf.create(_with_texts(text, "" if first in ("", "_global_") else f"{first}."))
        return ConfigResult(provider=self.provider, path=self.full_path(), config=content, header=header)

    def available(self) -> bool:
        """Whether the folder is there."""
        return self.is_group("")

    def is_group(self, config_path: str) -> bool:
        """Whether there is such a folder."""
        return os.path.isdir(os.path.join(self.path, config_path))

    def is_config(self, config_path: str) -> bool:
        """Whether there is such a file."""
        return os.path.isfile(os.path.join(self.path, self._normalize_file_name(config_path)))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """What a folder holds."""
        found: list[str] = []
        for name in os.listdir(os.path.join(self.path, config_path)):
            self._list_add_result(found, os.path.join(config_path, name), name, results_filter)
        return sorted(set(found))


def _with_texts(text: str, prefix: str) -> str:
    """YAML in which every setting that is text stands in quotes, and of a path the home folder in place of ``~``.

    Args:
        prefix: of the settings in it: ``data.``.
    """
    # Here, since every program that uses Hydra imports this module.
    from experiments.config.words import any_text_settings

    known, changed = any_text_settings(), False

    def keep(node: yaml.Node | None, key: str) -> None:
        nonlocal changed
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                keep(value, f"{key}.{name.value}" if key else str(name.value))
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                keep(value, key)
        elif isinstance(node, yaml.ScalarNode) and not node.tag.endswith(":null"):
            kind = known.get((prefix + key).removeprefix(_PRESET))
            if kind is not None and (not node.style or (kind.path and node.value.startswith("~"))):
                value = os.path.expanduser(node.value) if kind.path else node.value
                node.value, node.style, node.tag, changed = value, "'", "tag:yaml.org,2002:str", True

    tree = yaml.compose(text, Loader=_LOADER)
    keep(tree, "")
    return yaml.serialize(tree, allow_unicode=True, width=10**6) if changed and tree is not None else text

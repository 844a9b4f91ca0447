"""The layouts of published patches by name, and the settings that each of them takes.

In: the settings of `prepare`. Out: the `Source` of the layout; or an error for settings that do not go with it: a
legend of other labels, a share of a split that the archive publishes itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

from cromss.config import PrepareConfig
from cromss.data.sources.authors_lmdb import DFC2020_CODES, PRETRAINING_FILES, Dfc2020Lmdb, PretrainingLmdb
from cromss.data.sources.bigearthnet import METADATA, BigEarthNet
from cromss.data.sources.dfc2020_lists import lists_root
from cromss.data.sources.opening import Opening, default_of, refuse_patterns
from cromss.data.sources.patches import PublishedSplits
from cromss.data.sources.rois_patches import DFC2020, SEN12MS, RoisLayout, RoisPatches, igbp_as_dfc2020
from cromss.data.sources.source import Source
from cromss.errors import ConfigError
from cromss.geo.legend import Legend
from cromss.geo.legends import LEGENDS

__all__ = ["PATCH_LAYOUTS"]


def _dfc2020(opening: Opening) -> Source:
    published = ("test",) if lists_root(opening.root) is None else ("validation", "test")
    return _rois(opening, DFC2020, opening.legend, ("dfc2020",), published)


def _sen12ms(opening: Opening) -> Source:
    legend = igbp_as_dfc2020() if opening.config.legend == "dfc2020" else opening.legend
    return _rois(opening, SEN12MS, legend, ("igbp", "dfc2020"), ("test",))


def _bigearthnet(opening: Opening) -> Source:
    published = ("validation", "test") if (opening.root / METADATA).is_file() else ()
    labelled = _check(opening, ("bigearthnet19",), published=published, products=("L2A",))
    return BigEarthNet(
        opening.root, legend=opening.legend, bands=opening.bands, splits=_splits(opening), labelled=labelled
    )


def _cromss_lmdb(opening: Opening) -> Source:
    config = opening.config
    labelled = _check(opening, ("dynamic_world",), published=(), products=("L1C", "L2A"), free=("s1", "s2", "labels"))
    if config.edition != "uint8":
        raise ConfigError(
            "the authors' LMDBs hold 8-bit values, which are neither dB nor DN",
            got=f"edition {config.edition}",
            expected="uint8: the store then holds the same values, bit for bit",
            do="set edition to uint8",
        )
    names = {role: getattr(config, role) for role in (*opening.bands, *(("labels",) if labelled else ()))}
    files = {
        role: opening.root / (PRETRAINING_FILES[role] if name == default_of(role) else name)
        for role, name in names.items()
    }
    return PretrainingLmdb(
        files,
        legend=opening.legend,
        bands=opening.bands,
        split_of=opening.split_of,
        s2_product=config.s2_product,
    )


def _dfc2020_lmdb(opening: Opening) -> Source:
    labelled = _check(opening, ("dfc2020",), published=("test",))
    legend = opening.legend
    if opening.config.legend == "dfc2020":
        legend = dataclasses.replace(legend, codes=DFC2020_CODES)
    return Dfc2020Lmdb(opening.root, legend=legend, bands=opening.bands, splits=_splits(opening), labelled=labelled)


def _rois(
    opening: Opening, layout: RoisLayout, legend: Legend, legends: Sequence[str], published: Sequence[str]
) -> Source:
    labelled = _check(opening, legends, published=published)
    return RoisPatches(
        opening.root, layout, legend=legend, bands=opening.bands, splits=_splits(opening), labelled=labelled
    )


def _splits(opening: Opening) -> PublishedSplits:
    return PublishedSplits(draw=opening.split_of, by_table=opening.by_table)


def _check(
    opening: Opening,
    legends: Sequence[str],
    *,
    published: Sequence[str],
    products: Sequence[str] = ("L1C",),
    free: Sequence[str] = (),
) -> bool:
    """Refuse settings that do not go with an archive of patches; return whether its labels are wanted."""
    refuse_patterns(opening.config, free=free)
    _require_legend(opening.config, legends)
    _require_product(opening.config, products)
    _refuse_shares(opening.config, published)
    return opening.config.labels is not None


def _require_legend(config: PrepareConfig, known: Collection[str]) -> None:
    """Raise ConfigError for a legend by name that is none of `known`; a file of the user's own passes, its codes count.

    Without labels, any legend will do.
    """
    if config.labels is not None and config.legend in LEGENDS and config.legend not in known:
        raise ConfigError(
            f"the labels of layout {config.layout} are of another legend",
            got=f"legend {config.legend}",
            expected=" or ".join(known),
            do=f"set legend to {next(iter(known))}, or to a legend file with the codes of these labels",
        )


def _require_product(config: PrepareConfig, products: Sequence[str]) -> None:
    """Raise ConfigError for a Sentinel-2 product that is none of `products`."""
    if config.s2_product not in (None, *products):
        raise ConfigError(
            f"the Sentinel-2 images of layout {config.layout} are of another product",
            got=f"s2_product {config.s2_product}",
            expected=" or ".join(products),
            do="leave s2_product out",
        )


def _refuse_shares(config: PrepareConfig, published: Collection[str]) -> None:
    """Raise ConfigError for a share of a split that the archive publishes itself."""
    for split in published:
        share = getattr(config, f"{split}_share")
        if share:
            raise ConfigError(
                f"layout {config.layout} comes with a {split} split of its own",
                got=f"{split}_share {share}",
                expected="0",
                do=f"leave {split}_share out, or give splits of your own as a table (setting split)",
            )


PATCH_LAYOUTS: Mapping[str, Callable[[Opening], Source]] = {
    "dfc2020": _dfc2020,
    "sen12ms": _sen12ms,
    "bigearthnet": _bigearthnet,
    "cromss_lmdb": _cromss_lmdb,
    "dfc2020_lmdb": _dfc2020_lmdb,
}

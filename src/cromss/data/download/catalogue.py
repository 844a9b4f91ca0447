"""The data sets that `cromss download` knows: where they are, what their licence is, and what their bytes must hash to.

In: nothing. Out: `CATALOGUE`, name -> DataSet. A fact that could not be seen is None here and a sentence in `unseen`;
none is guessed. A hash is pinned where one is published; a revision is pinned where the host keeps revisions.

Sources: the README of github.com/zhu-xlab/CromSS (NoLDO-S12); torchgeo's ssl4eo.py and copernicus/dfc2020_s2.py (the
revisions and hashes); the README of github.com/zhu-xlab/Copernicus-FM, Copernicus-Bench (DFC2020, licence and counts).
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CATALOGUE", "DataSet", "RemoteFile"]


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file of a data set.

    bytes, sha256, md5: as published; None where nothing is published. about: bytes, rounded, for printing alone.
    archive: the archive that the file is, or is a part of; parts are joined in the table's order. None: no archive.
    """

    name: str
    url: str
    bytes: int | None = None
    about: float | None = None
    sha256: str | None = None
    md5: str | None = None
    archive: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A published data set.

    unseen: what could not be looked up, in words. max_files, max_bytes: the most that one archive of it may unpack to.
    """

    title: str
    page: str
    licence: str | None
    files: tuple[RemoteFile, ...]
    contents: str
    unseen: str = ""
    max_files: int = 500_000
    max_bytes: int | None = None


_HUB = "https://huggingface.co/datasets"


def _noldo(name: str) -> RemoteFile:
    url = f"{_HUB}/vikki23/NoLDO-S12/resolve/main/{name.replace('=', '%3D')}"
    return RemoteFile(name=name, url=url, archive=name if name.endswith(".zip") else None)


_NOLDO = DataSet(
    title="NoLDO-S12: noisy Dynamic World labels for SSL4EO-S12, two exact-label tasks, and the authors' encoders",
    page=f"{_HUB}/vikki23/NoLDO-S12",
    licence=None,
    contents="ssl4eo_s12_nol.zip: noisy labels of 103,793 places x 4 seasons (images: data set ssl4eo-s12); "
    "ssl4eo_s12_dw.zip: 3,574 + 340 tiles; ssl4eo_s12_osm.zip: 1,375 + 400 tiles; "
    "weights-*.ckpt: CromSS middle and late fusion, 13 and 9 bands (read them with cromss import)",
    unseen="sizes and SHA-256 could not be seen: what the server announces is taken, and written down",
    files=tuple(
        _noldo(name)
        for name in (
            "ssl4eo_s12_nol.zip",
            "ssl4eo_s12_dw.zip",
            "ssl4eo_s12_osm.zip",
            "weights-cromss-13B-midFusion-epoch=199.ckpt",
            "weights-cromss-13B-lateFusion-epoch=199.ckpt",
            "weights-cromss-9B-midFusion-epoch=199.ckpt",
            "weights-cromss-9B-lateFusion-epoch=199.ckpt",
        )
    ),
    max_files=2_000_000,  # 415,172 label files, a folder a season and a folder a place
)

_DFC2020 = DataSet(
    title="DFC2020: Sentinel-1 and -2 patches with exact land cover, in the edition of Copernicus-Bench",
    page=f"{_HUB}/wangyi111/Copernicus-Bench",
    licence="CC-BY-4.0",
    contents="5,128 patches of 256 px (train 3,156, validation 986, test 986), folders s1, s2, dfc; this is not the "
    "split of the paper; for that get the files at ieee-dataport.org/competitions/2020-ieee-grss-data-fusion-contest",
    unseen="the exact size and a SHA-256 could not be seen; pinned is the MD5, which shows damage but not malice",
    files=(
        RemoteFile(
            name="dfc2020.zip",
            url=f"{_HUB}/wangyi111/Copernicus-Bench/resolve/9d252acd3aa0e3da3128e05c6f028647f0e48e5f"
            "/l2_dfc2020_s1s2/dfc2020.zip",
            about=8.76e9,  # the published position and length of the archive's own directory
            md5="f10ba017dab6f38b7a6857b169ea924b",
            archive="dfc2020.zip",
        ),
    ),
)

_SSL4EO_HASHES: Mapping[str, str] = {
    "s1_grd": """
        c875a430ed19c48fa90ea2574785069eb939629beec372b42d8ba283aa26d5e6
        517fe7eaa8a93b74ab8ea2cd5a8f65fb2130986266c7a702bcdd312afce2b396
        0146dd447d6f89d6bfe88fec05155df586f0b10643a50a7d9cf22c37edd1c3a2
        02871cc0d33356ad3d06f8a496d7f06d10121caa0e9078f095491bb8649f9d0d
        c4694fbba061ad89d4bfd1de2069b2a5cd19de2922d81f5a6364178d23948b61
        c7ba827f7b35f8bd974ee626eca55358da55830d85a29ecbfaa6e4bf70811bae
        e37fac95aa0e78fe418e392652cecb5dfff72b98b0d6996fdf9c824da254bccb
        1824079dfe4f844b0f6672582e296b74f25ffd5ae8c46ed92b70b08b7d5eb0e6
        b246750cdffe2c77dcea624c01aa5e6b53db73e33ce58082af4ce1fef5fb5b98
        6d3253bb0b294c4cf14fe8e4f09505d370e32be20b0bb8de3a829ce004154535""",
    "s2_l1c": """
        1003dd0b4e11fdcca00855c3de23fa3209926c24074a36f40a07efeba377a9da
        96dd31b2d53e131daa73604013678e21dd2b29ff4865c73a24ada77001f77a7a
        23cb241e947de1da08bb9a53c6c9b088232bbf622c9aee2117e4b9bf8e93d83d
        e9502f21de324e6fc400c73af1a6486e1b75176c6511642763fb899537dada1e
        f47a7aaaeda7df30af9b892e54eb6c00941c706f82584c8c5b4481ee411e3e56
        207d2dc70378fc9c289b666fe1730821ec6dca0d2d6fb60d5325ba31b17de896
        060e01cc896e1ed3e426ff965ed6aba2538d065b398575968b0f1ae92f6ef8bc
        c32211630526dad919891d1a6aae82b7d82829f343f2176f04b37378b49d1f61
        a62a34fe0708885b4bd0dcc3d8e2a14c0c29737d94f744b41381d2a6618ff240
        a6206d4e40569b9e3b92eb4d5174193543980b6710b02f847d3629c50fd89d59
        5ae573daf729a0d32ad8d7998b78d91e4083289df1d4444feb4907b9091d9f03
        75ef65fdd931176ef82bc0d87dbd2c35202714499dfe7a3918bf48d01788538f""",
    "s2_l2a": """
        b124fe99809fa2eee663d683435399e8f8ffdbc7fc40c3e5cbe5b3e3d5f29752
        31b624e24e41192340f449b90b6fefac2a6ba91e640467df4e4bd5b7ae15c36f
        4a73229310e4f4cf61584353f1fc39ef715b08ce65e4bbd4033065391c26e262
        3a0dfd18476ee1dd0f1dcc77e91a8b82312a1b9f64e977bcf4577407f63375d4
        d5a7d1f8c07de315710aa528d1aed877093a379f4d035d22d823212cc22fb0ae
        15f2e4a365f517ea272a14905caef8da5214c93ebf166e94820a1a9ae8bfa0d7
        9f18d7544fcfa63ae1c3481cb452c8f00e298112bac7d08fe199433569963c1c
        c682a97d2fd420d6be214f0f3cf3d588940077d9fb7004d5b95d56e8c5532aa8
        a5dec0d93ac846c5c7f44a79b8d0ab5e2507a4543cb7acff78604fb7b6fe54d0
        ff8378e1f12a566f9ce440569f1aff5c373908f8fc32ca233ebd98e455bfd172
        e78649ee5de002b961c62fa02674ec6a4accbb67c69962754012af29a2d51dec
        b5b43650d5a5fa0dbd4ab5cc791920757b98ffb4d684c8a7bb000e70a44b071a""",
}


def _ssl4eo(sensor: str) -> list[RemoteFile]:
    """The parts of one sensor's archive: .partaa, .partab, ...; all but the last are 48.3 GB."""
    hashes = _SSL4EO_HASHES[sensor].split()
    last = {"s1_grd": 47.3e9, "s2_l1c": 26e9, "s2_l2a": 22.7e9}[sensor]
    archive = f"{sensor}.tar.gz"
    root = f"{_HUB}/wangyi111/SSL4EO-S12/resolve/3f5ddad68ba2ea29d019b0cef6cf292ff8af0d62/{sensor}"
    return [
        RemoteFile(
            name=f"{archive}.parta{letter}",
            url=f"{root}/{archive}.parta{letter}",
            about=48.3e9 if number + 1 < len(hashes) else last,
            sha256=digest,
            archive=archive,
        )
        for number, (letter, digest) in enumerate(zip(string.ascii_lowercase, hashes, strict=False))
    ]


_SSL4EO = DataSet(
    title="SSL4EO-S12 v1.0: images of 251,079 places x 4 seasons, GeoTIFFs of 264 px",
    page=f"{_HUB}/wangyi111/SSL4EO-S12",
    licence="CC-BY-4.0",
    contents="s1_grd: Sentinel-1; s2_l1c: Sentinel-2 L1C, 13 bands; s2_l2a: Sentinel-2 L2A, 12 bands; 1.5 TB packed, "
    "3.7 TB unpacked (one sensor: --files '[s2_l1c]')",
    unseen="exact sizes could not be seen; every part has its published SHA-256",
    files=tuple(file for sensor in _SSL4EO_HASHES for file in _ssl4eo(sensor)),
    max_files=20_000_000,  # 251,079 places x 4 seasons x 13 bands are 13.1 million files
    max_bytes=3_700_000_000_000,  # published for the three together
)

CATALOGUE: Mapping[str, DataSet] = {"noldo-s12": _NOLDO, "dfc2020": _DFC2020, "ssl4eo-s12": _SSL4EO}

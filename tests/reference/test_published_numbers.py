"""Numbers that others published, written out a second time: a digit that slips in the tables of the code shows here."""

from __future__ import annotations

import pytest

from cromss.data.sources.rois_patches import SEN12MS_HOLD_OUT
from cromss.geo.legend import IGNORE
from cromss.geo.legends import LEGENDS
from cromss.geo.sensor import SENSORS

# Statistics of 50,000 places of SSL4EO-S12, as the scripts of CromSS list them: means, then standard deviations.
STATISTICS = {
    ("s1", "GRD"): """
        -12.54847273 -20.19237134
        5.25697717 5.91150917""",
    ("s2", "L1C"): """
        1605.57504906 1390.78157673 1314.8729939 1363.52445545 1549.44374991 2091.74883118 2371.7172463 2299.90463006 2560.29504086 830.06605044 22.10351321 2177.07172323 1524.06546312
        786.78685367 850.34818441 875.06484736 1138.84957046 1122.17775652 1161.59187054 1274.39184232 1248.42891965 1345.52684884 577.31607053 51.15431158 1336.09932639 1136.53823676""",  # noqa: E501
    ("s2", "L2A"): """
        752.40087073 884.29673756 1144.16202635 1297.47289228 1624.90992062 2194.6423161 2422.21248945 2517.76053101 2581.64687018 2645.51888987 2368.51236873 1805.06846033
        1108.02887453 1155.15170768 1183.6292542 1368.11351514 1370.265037 1355.55390699 1416.51487101 1474.78900051 1439.3086061 1582.28010962 1455.52084939 1343.48379601""",  # noqa: E501
}
BANDS = {"GRD": "VV VH", "L1C": "B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B10 B11 B12"}
BANDS["L2A"] = BANDS["L1C"].replace("B10 ", "")

# Value in a file -> class; the order of the ids is that of the rows.
CODES = {
    "dynamic_world": "0 water, 1 trees, 2 grass, 3 flooded_vegetation, 4 crops, 5 shrub_and_scrub, 6 built, 7 bare, "
    "8 snow_and_ice",
    "osm13": "0 urban, 1 arable_land, 2 forest, 3 industrial, 4 artificial_vegetation, 5 dump_site_or_mine, 6 pasture, "
    "7 permanent_crops, 8 water, 9 open_space, 10 shrub, 11 wetland, 12 coastal",
    "dfc2020": "10 water, 1 forest, 4 grassland, 5 wetland, 6 cropland, 2 shrubland, 7 urban, 9 barren",
    "worldcover": "10 tree_cover, 20 shrubland, 30 grassland, 40 cropland, 50 built_up, 60 bare, 70 snow_and_ice, "
    "80 water, 90 herbaceous_wetland, 95 mangrove, 100 moss_and_lichen",
    "igbp": "1 evergreen_needleleaf_forest, 2 evergreen_broadleaf_forest, 3 deciduous_needleleaf_forest, "
    "4 deciduous_broadleaf_forest, 5 mixed_forest, 6 closed_shrubland, 7 open_shrubland, 8 woody_savanna, 9 savanna, "
    "10 grassland, 11 permanent_wetland, 12 cropland, 13 urban, 14 cropland_natural_mosaic, 15 snow_and_ice, "
    "16 barren, 17 water",
}
UNUSED = {"dynamic_world": (), "osm13": (), "dfc2020": (0, 3, 8), "worldcover": (0,), "igbp": (0,)}

# SEN12MS_holdOutScenes.txt of the SEN12MS toolbox, in its order.
HOLD_OUT = {
    "ROIs1158_spring": "63 146 97 124 15 17",
    "ROIs1868_summer": "43 131 19 104 72 15 79",
    "ROIs1970_fall": "120 39 144 35 61 47 30 141",
    "ROIs2017_winter": "64 146 32 107 135",
}


@pytest.mark.parametrize(("sensor", "product"), STATISTICS)
def test_the_statistics_of_the_bands_are_the_published_ones_to_the_last_digit(sensor, product):
    mean, std = (map(float, row.split()) for row in STATISTICS[sensor, product].strip().splitlines())
    expected = dict(zip(BANDS[product].split(), zip(mean, std, strict=True), strict=True))
    assert dict(SENSORS[sensor].statistics[product]) == expected
    assert SENSORS[sensor].products[product] == tuple(expected)


@pytest.mark.parametrize("name", CODES)
def test_every_value_of_a_published_map_means_its_class(name):
    legend = LEGENDS[name]
    rows = [row.split() for row in CODES[name].split(", ")]
    assert legend.names == tuple(title for _, title in rows)
    expected = {int(code): index for index, (code, _) in enumerate(rows)}
    assert dict(legend.codes) == expected | dict.fromkeys((*UNUSED[name], IGNORE), IGNORE)


def test_the_held_out_scenes_of_sen12ms_are_the_published_ones():
    assert {season: sorted(map(int, scenes.split())) for season, scenes in HOLD_OUT.items()} == {
        season: sorted(scenes) for season, scenes in SEN12MS_HOLD_OUT.items()
    }

"""Seeds: the activation maps of one image, in memory and on disk, and their masks."""

from baoseg.seeds.seed_maps import SeedMaps as SeedMaps
from baoseg.seeds.seed_maps import load as load
from baoseg.seeds.seed_maps import resize as resize
from baoseg.seeds.seed_maps import save as save

Seed = SeedMaps  # the name up to version 0.1

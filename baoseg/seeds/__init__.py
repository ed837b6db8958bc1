"""Maps of an image, in memory and on disk, and the masks that they say."""

from baoseg.seeds.seed_maps import Seed as Seed
from baoseg.seeds.seed_maps import load as load
from baoseg.seeds.seed_maps import resize as resize
from baoseg.seeds.seed_maps import save as save

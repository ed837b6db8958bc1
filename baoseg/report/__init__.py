"""The table and the page of a run."""

from baoseg.report import boxes as boxes
from baoseg.report.curves import COLOURS as COLOURS
from baoseg.report.curves import DASHES as DASHES
from baoseg.report.curves import INK as INK
from baoseg.report.page import Config as Config
from baoseg.report.page import build as build
from baoseg.report.tables import COST_COLUMNS as COST_COLUMNS
from baoseg.report.tables import ORACLE_COLUMNS as ORACLE_COLUMNS
from baoseg.report.tables import OWN_COLUMNS as OWN_COLUMNS
from baoseg.report.tables import Row as Row
from baoseg.report.tables import number as number
from baoseg.report.tables import summary as summary
from baoseg.report.tables import table as table

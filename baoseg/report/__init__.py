"""The table and the page of a run."""

from baoseg.report.page import COLOURS as COLOURS
from baoseg.report.page import COST_COLUMNS as COST_COLUMNS
from baoseg.report.page import DASHES as DASHES
from baoseg.report.page import INK as INK
from baoseg.report.page import ORACLE_COLUMNS as ORACLE_COLUMNS
from baoseg.report.page import OWN_COLUMNS as OWN_COLUMNS
from baoseg.report.page import Config as Config
from baoseg.report.page import Row as Row
from baoseg.report.page import build as build
from baoseg.report.page import number as number
from baoseg.report.page import summary as summary
from baoseg.report.page import table as table

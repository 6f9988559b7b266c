"""What a data set holds, and what would spoil a result: read before training, by `fusionjax inspect`."""

from fusionjax.data.inspection.findings import Finding
from fusionjax.data.inspection.inspect import Inspection, SplitFacts, inspect
from fusionjax.data.inspection.layout import DRAWN, recognise

__all__ = ["DRAWN", "Finding", "Inspection", "SplitFacts", "inspect", "recognise"]

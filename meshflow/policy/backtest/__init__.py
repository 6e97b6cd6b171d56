"""Run recorded decisions through a candidate bundle, and say which would change."""

from meshflow.policy.backtest.candidate import Candidate
from meshflow.policy.backtest.judge import Backtest
from meshflow.policy.backtest.report import Change, Report

__all__ = ["Backtest", "Candidate", "Change", "Report"]

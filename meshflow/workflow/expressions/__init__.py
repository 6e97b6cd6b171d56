"""CEL, the Common Expression Language: checked at load, bounded in cost, and an error rather than a guess."""

from meshflow.workflow.expressions.engine import EvaluationError, Expression, ExpressionError, Scope, about

__all__ = ["EvaluationError", "Expression", "ExpressionError", "Scope", "about"]

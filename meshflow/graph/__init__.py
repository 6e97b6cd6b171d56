"""Graphs of steps that share a state: build them with StateGraph, compile them, run them."""

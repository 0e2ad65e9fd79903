"""Engines that write down what was said."""

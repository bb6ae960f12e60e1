"""YAMLs of LLaMA-Factory, read as commands of this project: each key taken, ignored or refused, and said why.

The facts about LLaMA-Factory (names, defaults, meanings) are those of its version 0.9.5.
"""

"""Tests of fastadam."""

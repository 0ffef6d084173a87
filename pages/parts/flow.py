"""Ends of a run that never come back, said in a way that type checkers understand too."""

from __future__ import annotations

from typing import NoReturn

import streamlit as st


def stop() -> NoReturn:
    """Ends the page here."""
    st.stop()
    raise AssertionError("st.stop came back")


def again() -> NoReturn:
    """Runs the page once more from the top."""
    st.rerun()
    raise AssertionError("st.rerun came back")

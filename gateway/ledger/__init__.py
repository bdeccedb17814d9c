"""The record of every call: journal, writer, reports."""

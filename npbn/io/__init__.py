"""Shared by files and programs: conversion to arrays, safe text, atomic writing, ends."""

"""Shared by all file formats: conversion to arrays, text that is safe to print, atomic writing."""

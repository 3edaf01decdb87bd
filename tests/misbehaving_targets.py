"""BatchNorms that do to their process what a target may do."""

import ctypes
import os
import re
import sys

import numpy as np

import npbn
from npbn.testing.textbook import TextbookBatchNorm


class InEvaluation(TextbookBatchNorm):
    """Right in training; misbehaves in evaluation."""

    def forward(self, x, training):
        if not training:
            self.misbehave()
        return super().forward(x, training)


class Exits(InEvaluation):
    def misbehave(self):
        sys.exit(0)


class ExitsAtOnce(InEvaluation):
    def misbehave(self):
        os._exit(0)


class ExitsWithThree(InEvaluation):
    def misbehave(self):
        os._exit(3)


class SegmentationFault(InEvaluation):
    def misbehave(self):
        ctypes.string_at(0)


class Aborts(InEvaluation):
    def misbehave(self):
        os.abort()


class Interrupts(InEvaluation):
    def misbehave(self):
        raise KeyboardInterrupt


class ClosesItsFiles(InEvaluation):
    def misbehave(self):
        os.closerange(0, 256)


class Loops(InEvaluation):
    def misbehave(self):
        while True:
            pass


class HoldsTheLock(InEvaluation):
    """Stays in C, with the interpreter's lock, for longer than anybody waits."""

    def misbehave(self):
        re.match(r"(a+)+b", "a" * 64)


class TakesMemory(InEvaluation):
    def misbehave(self):
        self.taken = np.ones(10 * 2**30, np.uint8)


class CannotBeShown(InEvaluation):
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError

    def misbehave(self):
        raise self.Odd


class Prints(TextbookBatchNorm):
    def forward(self, x, training):
        print("from Python ŷ → x̂")
        os.write(1, b"from C\n")
        return super().forward(x, training)


class SaysOddThings(InEvaluation):
    def misbehave(self):
        raise ValueError("ŷ → x̂")


class CannotBeMade(TextbookBatchNorm):
    def __init__(self, num_features, eps, momentum):
        raise RuntimeError("no device")


class LoopsInBackward(TextbookBatchNorm):
    def backward(self, grad_output):
        while True:
            pass


class SlowToLoad(TextbookBatchNorm):
    """Its first call takes longer than a case may."""

    compiled = False

    def forward(self, x, training):
        import time

        if not SlowToLoad.compiled:
            time.sleep(2)
            SlowToLoad.compiled = True
        return super().forward(x, training)


class DoesNothing(TextbookBatchNorm):
    """Has no capability at all."""

    from npbn.testing import CAPABILITIES as unsupported


# -- what tests call in a worker ----------------------------------------------------------------


def engine_of(implementation):
    return npbn.get_engine()


def exit_with(implementation, status):
    os._exit(status)


def name_of(implementation):
    return implementation.name

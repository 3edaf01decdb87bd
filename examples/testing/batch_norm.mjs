// BatchNorm in JavaScript, checked through a pipe:
//
//     python -m npbn.testing --command "node examples/testing/batch_norm.mjs"
//
// Each line of the input is one step, each line of the output its results; the protocol is in
// npbn/testing/pipe.py. Numbers are float64 as JavaScript's are, and rounded at the end.

import { createInterface } from "node:readline";

const ABOUT = { name: "batch_norm.mjs", unsupported: ["float16"] };

const round = { float32: Math.fround, float64: Number };

// A BatchNorm's values as one list a channel, and back: x[n, c, ...] is list c, in order.
function channels({ shape, values }) {
  const [, count, ...positions] = shape;
  const inner = positions.reduce((product, size) => product * size, 1);
  const lists = Array.from({ length: count }, () => []);
  values.forEach((value, i) => lists[Math.floor(i / inner) % count].push(Number(value)));
  return lists;
}

function array(lists, { dtype, shape }) {
  const [, count, ...positions] = shape;
  const inner = positions.reduce((product, size) => product * size, 1);
  const next = lists.map(() => 0);
  const size = shape.reduce((product, length) => product * length, 1);
  const values = Array.from({ length: size }, (_, i) => {
    const c = Math.floor(i / inner) % count;
    return word(round[dtype](lists[c][next[c]++]));
  });
  return { dtype, shape, values };
}

const vector = (values, like) => ({
  dtype: like.dtype,
  shape: [values.length],
  values: values.map((value) => word(round[like.dtype](value))),
});

// JSON has no NaN and no infinity.
const word = (value) => (Number.isFinite(value) ? value : String(value));

const sum = (values) => values.reduce((total, value) => total + value, 0);

function step(request) {
  const { x, training, eps, momentum } = request;
  const lists = channels(x);
  const n = lists[0].length;
  const tracked = request.running_mean !== null;
  const byBatch = training || !tracked;
  if (byBatch && n === 1) throw new Error("expected more than 1 value per channel when training");

  const numbers = (given, otherwise) =>
    given === null ? lists.map(() => otherwise) : given.values.map(Number);
  const weight = numbers(request.weight, 1);
  const bias = numbers(request.bias, 0);
  let runningMean = numbers(request.running_mean, 0);
  let runningVar = numbers(request.running_var, 1);

  // Twice about the mean: the first is rounded, the second takes what it has lost.
  const means = lists.map((values, c) => {
    if (!byBatch) return runningMean[c];
    const mean = sum(values) / n;
    return mean + sum(values.map((value) => value - mean)) / n;
  });
  const centred = lists.map((values, c) => values.map((value) => value - means[c]));
  const vars = centred.map((values, c) =>
    byBatch ? sum(values.map((value) => value * value)) / n : runningVar[c],
  );
  const std = vars.map((value) => Math.sqrt(value + eps));
  const xHat = centred.map((values, c) => values.map((value) => value / std[c]));
  const answer = {
    y: array(xHat.map((values, c) => values.map((v) => weight[c] * v + bias[c])), x),
  };

  if (tracked) {
    const count = request.num_batches_tracked + (training ? 1 : 0);
    if (training && n > 0) {
      const m = momentum ?? 1 / count;
      runningMean = runningMean.map((old, c) => (1 - m) * old + m * means[c]);
      runningVar = runningVar.map((old, c) => (1 - m) * old + (m * vars[c] * n) / (n - 1));
    }
    answer.running_mean = vector(runningMean, request.running_mean);
    answer.running_var = vector(runningVar, request.running_var);
    answer.num_batches_tracked = count;
  }

  if (request.grad_output !== null) {
    const grad = channels(request.grad_output);
    const gradBias = grad.map(sum);
    const gradWeight = grad.map((values, c) => sum(values.map((g, i) => g * xHat[c][i])));
    const gradInput = grad.map((values, c) =>
      values.map((g, i) => {
        const terms = byBatch ? (gradBias[c] + xHat[c][i] * gradWeight[c]) / n : 0;
        return (weight[c] / std[c]) * (g - terms);
      }),
    );
    answer.grad_input = array(gradInput, x);
    if (request.weight !== null) answer.grad_weight = vector(gradWeight, request.weight);
    if (request.bias !== null) answer.grad_bias = vector(gradBias, request.bias);
  }
  return answer;
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  let answer;
  try {
    answer = request.request === "describe" ? ABOUT : step(request);
  } catch (error) {
    answer = { error: error.message };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}

/* BatchNorm in C, checked through a pipe:
 *
 *     gcc -O2 -o batch_norm examples/testing/batch_norm.c -lm
 *     python -m npbn.testing --command ./batch_norm
 *
 * Each line of the input is one step, each line of the output its results; the protocol is in
 * npbn/testing/pipe.py. It needs no JSON library: the keys of a line are looked for, and what
 * follows them is read. The arithmetic is double, and rounded to float at the end. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int there;
    long shape[5], rank, size;
    double *values;
} Array;

/* -- reading -------------------------------------------------------------------------------- */

/* What follows "key": in the text. */
static const char *after(const char *text, const char *key)
{
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *found = strstr(text, quoted);
    if (!found) exit(2);
    found += strlen(quoted);
    return found + strspn(found, " ");
}

static double number(const char *line, const char *key) { return strtod(after(line, key), NULL); }

static int is(const char *line, const char *key, const char *word)
{
    return strncmp(after(line, key), word, strlen(word)) == 0;
}

static Array array(const char *line, const char *key)
{
    Array a = {0};
    const char *text = after(line, key);
    if (*text == 'n') return a; /* null */
    a.there = 1;
    a.size = 1;
    const char *at = strchr(after(text, "shape"), '[') + 1;
    for (char *end; *at != ']'; at = end + strspn(end, ", "))
        a.size *= a.shape[a.rank++] = strtol(at, &end, 10);
    a.values = malloc((a.size + 1) * sizeof *a.values);
    at = strchr(after(text, "values"), '[') + 1;
    for (long i = 0; i < a.size; i++) { /* "NaN" and "Infinity" stand in quotes */
        char *end;
        at += strspn(at, "\", ");
        a.values[i] = strtod(at, &end);
        at = end;
    }
    return a;
}

/* -- writing -------------------------------------------------------------------------------- */

static void put(const char *key, const Array *a, const double *values)
{
    printf("\"%s\": {\"dtype\": \"float32\", \"shape\": [", key);
    for (long i = 0; i < a->rank; i++) printf(i ? ", %ld" : "%ld", a->shape[i]);
    printf("], \"values\": [");
    for (long i = 0; i < a->size; i++) {
        float value = (float)values[i];
        if (i) printf(", ");
        if (isfinite(value)) printf("%.9g", value);
        else printf(isnan(value) ? "\"NaN\"" : value > 0 ? "\"Infinity\"" : "\"-Infinity\"");
    }
    printf("]}");
}

/* -- BatchNorm ------------------------------------------------------------------------------ */

static void step(const char *line)
{
    Array x = array(line, "x"), grad = array(line, "grad_output");
    Array weight = array(line, "weight"), bias = array(line, "bias");
    Array mean = array(line, "running_mean"), var = array(line, "running_var");
    int training = is(line, "training", "true"), by_batch = training || !mean.there;
    double eps = number(line, "eps"), batches = number(line, "num_batches_tracked") + training;
    double momentum = is(line, "momentum", "null") ? 1 / batches : number(line, "momentum");

    long channels = x.shape[1], positions = 1;
    for (long i = 2; i < x.rank; i++) positions *= x.shape[i];
    long n = x.shape[0] * positions;
    if (by_batch && n == 1) {
        printf("{\"error\": \"expected more than 1 value per channel when training\"}\n");
        return;
    }
    double *y = calloc(x.size + 1, sizeof *y), *grad_input = calloc(x.size + 1, sizeof *y);
    double *grad_weight = calloc(channels, sizeof *y), *grad_bias = calloc(channels, sizeof *y);

    for (long c = 0; c < channels; c++) {
/* For each index i of the channel's values. */
#define EACH_VALUE                                                                          \
    for (long sample = 0; sample < x.shape[0]; sample++)                                    \
        for (long i = (sample * channels + c) * positions, end = i + positions; i < end; i++)

        double m = mean.there ? mean.values[c] : 0, v = var.there ? var.values[c] : 1;
        if (by_batch && n) {
            double total = 0, rest = 0, squares = 0;
            EACH_VALUE total += x.values[i];
            EACH_VALUE rest += x.values[i] - total / n; /* what total / n has lost */
            m = total / n + rest / n;
            EACH_VALUE squares += (x.values[i] - m) * (x.values[i] - m);
            v = squares / n;
            if (training && mean.there) {
                mean.values[c] = (1 - momentum) * mean.values[c] + momentum * m;
                var.values[c] = (1 - momentum) * var.values[c] + momentum * v * n / (n - 1);
            }
        }
        double std = sqrt(v + eps), w = weight.there ? weight.values[c] : 1;
        EACH_VALUE y[i] = w * ((x.values[i] - m) / std) + (bias.there ? bias.values[c] : 0);
        if (!grad.there) continue;
        EACH_VALUE grad_bias[c] += grad.values[i];
        EACH_VALUE grad_weight[c] += grad.values[i] * ((x.values[i] - m) / std);
        EACH_VALUE {
            double x_hat = (x.values[i] - m) / std;
            double terms = by_batch ? (grad_bias[c] + x_hat * grad_weight[c]) / n : 0;
            grad_input[i] = w / std * (grad.values[i] - terms);
        }
    }

    printf("{");
    put("y", &x, y);
    if (mean.there) {
        printf(", \"num_batches_tracked\": %.0f, ", batches);
        put("running_mean", &mean, mean.values);
        printf(", ");
        put("running_var", &var, var.values);
    }
    if (grad.there) {
        printf(", ");
        put("grad_input", &x, grad_input);
        if (weight.there) { printf(", "); put("grad_weight", &weight, grad_weight); }
        if (bias.there) { printf(", "); put("grad_bias", &bias, grad_bias); }
    }
    printf("}\n");
    double *used[] = {x.values, grad.values, weight.values, bias.values, mean.values, var.values,
                      y, grad_input, grad_weight, grad_bias};
    for (size_t i = 0; i < sizeof used / sizeof *used; i++) free(used[i]);
}

int main(void)
{
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) {
        if (is(line, "request", "\"describe\""))
            printf("{\"name\": \"batch_norm.c\", \"unsupported\": [\"float16\", \"float64\"]}\n");
        else
            step(line);
        fflush(stdout);
    }
    free(line);
    return 0;
}

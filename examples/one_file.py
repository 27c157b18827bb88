"""R1-Zero in one file: GRPO with verifiable rewards on a model of 0.7 M weights, in plain PyTorch.

    python examples/one_file.py

The model solves Countdown ("make 24 from 3, 7 and 12") by trying. It was taught to give up early;
nothing here tells it to go on. Only right answers are rewarded. Read from top to bottom:
problem -> completions -> rewards -> advantages -> loss -> step.

Shapes: P problems, G completions of each, B = P * G rows, T tokens, V vocabulary, H heads, D width
of a head.
"""

import hashlib
import math
import random
import re
import time
from collections import Counter
from fractions import Fraction

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from aha.tiny import weights_path  # the only thing from aha: where the model's files are

STEPS, PROBLEMS, GENERATIONS = 80, 24, 8
LIMIT, TEMPERATURE, RATE, EPSILON, EOS = 240, 1.0, 3e-4, 0.2, 1
LAYERS, HEADS, KV_HEADS, HEAD_DIM, NORM_EPS, ROPE_BASE = 4, 4, 2, 32, 1e-6, 10_000.0


def make_problem(rng, held_out):
    """Three numbers and a target that they reach; a hash decides if the problem is held out."""
    while True:
        numbers = [rng.randint(1, 20) for _ in range(3)]
        pool = [Fraction(n) for n in numbers]
        while len(pool) > 1:
            rng.shuffle(pool)
            a, b = pool.pop(), pool.pop()
            results = [a + b, abs(a - b), a * b, a / b if b else Fraction(1, 2)]
            # Whole numbers that the model has a token for.
            pool.append(rng.choice([x for x in results if x.denominator == 1 and x < 200] or [0]))
        target = pool[0]
        if not 1 <= target <= 100:
            continue
        key = f"countdown:{','.join(map(str, sorted(numbers)))}={target}"
        share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
        if (share < 0.1) == held_out:
            return numbers, int(target)


def prompt_of(problem):
    numbers, target = problem
    return f"Make {target} from {' '.join(map(str, numbers))} . <think>"


LAYOUT = re.compile(r"[^<>]*</think> <answer>([^<>]*)</answer>")


def value_of(tokens):
    """The value of `( 13 - 3 ) * 2`, by recursive descent; no `eval` on what a model wrote."""

    def expression(level):
        if level == 2:
            token = tokens.pop(0)
            if token != "(":
                return Fraction(int(token))
            inner = expression(0)
            if tokens.pop(0) != ")":
                raise ValueError
            return inner
        left = expression(level + 1)
        while tokens and tokens[0] in ("+-", "*/")[level]:
            operator, right = tokens.pop(0), expression(level + 1)
            if operator == "+":
                left += right
            elif operator == "-":
                left -= right
            elif operator == "*":
                left *= right
            else:
                left /= right
        return left

    return expression(0)


def reward_of(problem, completion):
    """1 for a right expression that uses each number once, and 0.1 for the layout."""
    found = LAYOUT.fullmatch(completion)
    if found is None:
        return 0.0
    numbers, target = problem
    tokens = re.findall(r"\d+|\S", found[1])
    used = Counter(int(token) for token in tokens if token.isdigit())
    try:
        right = used == Counter(numbers) and value_of(tokens) == target and not tokens
    except (ValueError, IndexError, ZeroDivisionError):
        right = False
    return 1.1 if right else 0.1


def norm(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + NORM_EPS) * weight


def rotate(x_BHTD, position_T):
    """Rotary position embedding: each pair of values is turned by an angle that grows with T."""
    half = HEAD_DIM // 2
    rate = ROPE_BASE ** (-torch.arange(half) / half)
    angle_TD = (position_T[:, None] * rate).repeat(1, 2)
    turned = torch.cat((-x_BHTD[..., half:], x_BHTD[..., :half]), dim=-1)
    return x_BHTD * angle_TD.cos() + turned * angle_TD.sin()


def logits_of(weights, ids_BT, cache=None, start=0):
    """Next-token logits (B, T, V). `cache`: keys and values of each layer, (B, H, LIMIT, D)."""
    position_T = torch.arange(start, start + ids_BT.shape[1])
    hidden = weights["model.embed_tokens.weight"][ids_BT]
    for layer in range(LAYERS):
        w = {
            name.split(".", 3)[3]: value
            for name, value in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }

        def linear(x, name, w=w):
            return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

        x = norm(hidden, w["input_layernorm.weight"])
        query, key, value = (
            linear(x, f"self_attn.{name}_proj").unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)
            for name in "qkv"
        )
        query, key = rotate(query, position_T), rotate(key, position_T)
        if cache is not None:
            end = start + ids_BT.shape[1]
            for kept, new in zip(cache[layer], (key, value), strict=True):
                kept[:, :, start:end] = new
            key, value = (kept[:, :, :end] for kept in cache[layer])
        attended = F.scaled_dot_product_attention(
            query, key, value, is_causal=ids_BT.shape[1] > 1, enable_gqa=True
        )
        hidden = hidden + linear(attended.transpose(1, 2).flatten(2), "self_attn.o_proj")
        x = norm(hidden, w["post_attention_layernorm.weight"])
        gate, up = linear(x, "mlp.gate_proj"), linear(x, "mlp.up_proj")
        hidden = hidden + linear(F.silu(gate) * up, "mlp.down_proj")
    return norm(hidden, weights["model.norm.weight"]) @ weights["model.embed_tokens.weight"].T


@torch.no_grad()
def roll_out(weights, prompts_BT):
    """A completion for each row, drawn token by token; ends with EOS or at LIMIT tokens."""
    rows, width = prompts_BT.shape
    shape = (rows, KV_HEADS, width + LIMIT, HEAD_DIM)
    cache = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(LAYERS)]
    completions, live = [[] for _ in range(rows)], torch.arange(rows)
    ids_BT, start = prompts_BT, 0
    for _ in range(LIMIT):
        logits_BV = logits_of(weights, ids_BT, cache, start)[:, -1] / TEMPERATURE
        drawn_B = torch.multinomial(logits_BV.softmax(-1), 1)
        start += ids_BT.shape[1]
        for row, token in zip(live.tolist(), drawn_B[:, 0].tolist(), strict=True):
            completions[row].append(token)
        goes_on = (drawn_B[:, 0] != EOS).nonzero()[:, 0]
        if len(goes_on) == 0:
            break
        if len(goes_on) < len(live):  # rows that ended leave the batch
            live, drawn_B = live[goes_on], drawn_B[goes_on]
            cache = [tuple(kept[goes_on] for kept in pair) for pair in cache]
        ids_BT = drawn_B
    return completions


def advantages_of(rewards_PG):
    """How much better than its siblings, in standard deviations (arXiv:2402.03300)."""
    centred_PG = rewards_PG - rewards_PG.mean(dim=1, keepdim=True)
    return centred_PG / (rewards_PG.std(dim=1, keepdim=True) + 1e-4)


def logprobs_of(weights, prompts_BT, completions):
    """Log-probabilities (B, T) of the completions' tokens, 0 after their ends, and that mask."""
    width, longest = prompts_BT.shape[1], max(map(len, completions))
    padded_BT = torch.tensor([row + [EOS] * (longest - len(row)) for row in completions])
    mask_BT = torch.tensor([[t < len(row) for t in range(longest)] for row in completions])
    logits = logits_of(weights, torch.cat((prompts_BT, padded_BT[:, :-1]), dim=1))
    logs = (logits[:, width - 1 :] / TEMPERATURE).log_softmax(-1)
    return logs.gather(2, padded_BT[:, :, None])[:, :, 0] * mask_BT, mask_BT


def loss_of(weights, prompts_BT, completions, advantages_B):
    """GRPO: raise what did better than its siblings; each completion counts the same."""
    logprobs_BT, mask_BT = logprobs_of(weights, prompts_BT, completions)
    # One update a batch: the old policy is this one. The ratio is 1, and its gradient counts.
    ratio_BT = (logprobs_BT - logprobs_BT.detach()).exp()
    clipped_BT = ratio_BT.clamp(1 - EPSILON, 1 + EPSILON)
    gain_BT = torch.minimum(ratio_BT * advantages_B[:, None], clipped_BT * advantages_B[:, None])
    return -((gain_BT * mask_BT).sum(dim=1) / mask_BT.sum(dim=1)).mean()


def solved(weights, tokenizer, problems):
    """The share of problems solved with one completion each."""
    prompts = torch.tensor([tokenizer.encode(prompt_of(problem)) for problem in problems])
    texts = tokenizer.batch_decode(roll_out(weights, prompts), skip_special_tokens=True)
    rewards = [reward_of(problem, text) for problem, text in zip(problems, texts, strict=True)]
    return sum(reward > 1 for reward in rewards) / len(problems)


def main():
    torch.manual_seed(0)
    rng, began = random.Random(0), time.time()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(weights_path())
    weights = load_file(weights_path() / "model.safetensors")
    optimizer = torch.optim.AdamW(
        [weight.requires_grad_() for weight in weights.values()], lr=RATE, weight_decay=0.0
    )
    held_out = [make_problem(random.Random(f"test {n}"), held_out=True) for n in range(300)]
    print(f"before: {solved(weights, tokenizer, held_out):.1%} of {len(held_out)} problems solved")
    for step in range(STEPS):
        problems = [make_problem(rng, held_out=False) for _ in range(PROBLEMS)]
        rows = [problem for problem in problems for _ in range(GENERATIONS)]
        prompts_BT = torch.tensor([tokenizer.encode(prompt_of(problem)) for problem in rows])
        completions = roll_out(weights, prompts_BT)
        texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
        rewards_B = torch.tensor([reward_of(*pair) for pair in zip(rows, texts, strict=True)])
        advantages_B = advantages_of(rewards_B.view(PROBLEMS, GENERATIONS)).flatten()
        # Rows without an advantage teach nothing. Rows of similar length go together: less padding.
        order = sorted(advantages_B.nonzero()[:, 0].tolist(), key=lambda b: len(completions[b]))
        for part in (order[i : i + 24] for i in range(0, len(order), 24)):
            chosen = [completions[b] for b in part]
            loss = loss_of(weights, prompts_BT[part], chosen, advantages_B[part])
            (loss * len(part) / len(rows)).backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        optimizer.step()
        optimizer.zero_grad()
        length = sum(map(len, completions)) / len(completions)
        print(
            f"step {step + 1}/{STEPS}  reward {rewards_B.mean():.2f}  "
            f"solved {(rewards_B > 1).float().mean():.0%}  length {length:.0f} tokens  "
            f"{time.time() - began:.0f} s",
            flush=True,
        )
    print(f"after: {solved(weights, tokenizer, held_out):.1%} solved")


if __name__ == "__main__":
    main()

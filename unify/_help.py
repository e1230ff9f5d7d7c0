"""What `unify COMMAND --help` shows beneath the options: examples, and what a command promises."""

DESCRIPTION = "One program on every chip: devices, streams, tensors and Triton kernels."
EPILOG = """\
first steps:
  unify info                                        what this machine has
  unify chat                                        talk to a small language model (fetched once, 93 MB)
  unify generate --prompt "The capital of France is" --max-tokens 16 --greedy
  unify check kernels.py --targets cpu,ascend:910B3 will they compile there, and what to change
  unify compile --shipped                           what unify's own kernels cost, on any target, without a device
  unify simulate ascend -- python program.py        run what uses torch_npu, without a chip
  unify bench --list                                what can be measured, and against whom
  unify test-backend cpu                            what every backend must do, on one

Settings from the environment: `unify info --settings`. Exit status: 0 done, 1 tried and failed, 2 wrong usage,
130 interrupted. Errors are lines on standard error that begin with `unify: `.
"""
GENERATE_EPILOG = """\
examples:
  unify generate --prompt "Once upon a time" --max-tokens 64 --temperature 0.8 --seed 1
  unify generate --model ./model.gguf --prompt "2 + 2 =" --max-tokens 8 --greedy --json
  unify generate --model ./Qwen3-8B --weights int8 --prompt "2 + 2 ="         a directory of safetensors
  unify generate --model ./tiny --prompt-ids 1,2,3                            where it has no tokenizer
  unify generate --prompt "Hello" --device cpu --threads 2
  unify generate --prompt "A poem:" --max-tokens 200 --repetition-penalty 1.1
  unify generate --prompt "A poem:" --frequency-penalty 0.5 --presence-penalty 0.5
  unify generate --prompt-ids 1,2,3 --logit-bias 7:-inf --logit-bias 9:2      never token 7, token 9 a little more often
  unify generate --prompt "A poem:" --top-k 0 --top-p 1 --min-p 0.05          what is nearly as likely as the likeliest

The prompt is continued as it is; for questions and answers, `unify chat` writes the model's own frame around them.
With --json, standard output is one object: text, token_ids, prompt_tokens, prefill_tokens_per_s, decode_tokens_per_s,
device, peak_memory_mb. Rates leave out compiling and loading kernels: a prompt that needed some is timed in a second
pass over its end, after the text. The same seed gives the same text on the same device.

Logits change in this order: biases, repetition penalty, frequency and presence penalties, temperature; then --top-k,
--top-p and --min-p leave out what is unlikely.
"""
CHAT_EPILOG = """\
examples:
  unify chat
  unify chat --model ./model.gguf --temperature 0 --threads 4
  unify chat --prompt "What is a stream?"               one question, one answer
  echo "What is a stream?" | unify chat                 the same, from a pipe

In a chat: /help, /reset, /quit. Ctrl-C stops an answer, Ctrl-D leaves. A conversation that outgrows --max-context
forgets its oldest turns. The rates below an answer leave out compiling and loading kernels.
"""
INFO_EPILOG = """\
examples:
  unify info                 devices, backends, and why one is absent
  unify info --json          the same for programs and bug reports
  unify info --settings      every setting: its variable, value and meaning
"""
COMPILE_EPILOG = """\
examples:
  unify compile kernels.py                               what each annotated kernel costs on this processor
  unify compile kernels.py:add --target cuda:90 --target cuda:120 --report
  unify compile kernels.py:add --target ascend:910B3 --report
  unify compile kernels.py:add --emit asm                the assembly, on standard output
  unify compile kernels.py:add --target cuda:90 -o out --emit ttir,ptx
  unify compile kernels.py:add --type x=*fp16:16 --type n=i32 --constant BLOCK=128
  unify compile --shipped --report --target cuda:90      every kernel that unify ships

A parameter's type is its annotation, x: "*fp16", n: "i32", unless --type says otherwise; ":16" behind it promises
multiples of 16. A constexpr has its default, unless --constant says otherwise. No device is needed. The file is run, as
by import, with its package if it is in one; what it prints goes to standard error. Columns: registers of a thread,
scratch memory of a program, bytes that registers did not hold; on Ascend what a program has of a core's memory (UB, L1,
L0C) and of the device's (workspace); bytes of the binary, seconds to compile it; – where a target does not say. Files
are named KERNEL.TARGET.SUFFIX. Ascend needs `unify toolchain install ascend`.
"""
CHECK_EPILOG = """\
examples:
  unify check kernels.py --targets cpu,cuda:90,ascend:910B3,ascend:910C,ascend:950
  unify check kernels.py:add --targets ascend:910B3 --type x=*fp16:16 --type n=i32 --constant BLOCK=128
  unify check --run train.py small --targets ascend:910B3           kernels that a program launches
  unify check --run train.py --targets ascend:910B3 -- --steps 2    its own options stand behind --
  unify check --targets cuda:90 --json kernels.py > report.json     for programs
  unify check --shipped --targets ascend:910B3                      unify's own kernels

No chip is needed: the vendors' compilers are run (Ascend's after `unify toolchain install ascend`), and what they make
of each line is read. status: ok, a binary; lowered, all but the vendor's assembler, which only CANN has; failed. For
Ascend the table has what a program takes of a core's memory (UB, L1, L0C) and of how much, whether loads overlap with
computing (doubled), which cores it runs on, and how many blocks a launch may have. Below it stands what was found, by
file and line: an error would not work there, performance is slow there, portability is different there; and what to
change, and who says so.

Types come from annotations, x: "*fp16", n: "i32" (":16" behind them: multiples of 16), and defaults of constexpr
parameters, or from --type and --constant. Under triton.autotune each configuration is tried, and one must compile. Or
they come from a real run: --run runs a program on the CPU, with CPU tensors, and checks each kind of launch that it
makes, of unify.jit kernels and plain triton.jit ones, with the largest grid seen. A kernel's file is run too, as by
import, with its package if it is in one. What it prints goes to standard error.

Exit status: 0 all compile and nothing would fail, 1 otherwise, 2 wrong usage. A kernel that is not checked, as its
types are not known, is named, with --json on standard error, and does not count. Outcomes are kept in UNIFY_CACHE_DIR.
"""
TOOLCHAIN_EPILOG = """\
examples:
  unify toolchain                      what there is, what is installed and where
  unify toolchain install ascend       Huawei's compilers for Ascend, from PyPI: 215 MB, 0.5 GB unpacked
  unify toolchain remove ascend

Vendors' compilers that `unify compile` and simulated chips run. They need no chip and no vendor's software besides.
Versions and SHA-256 are pinned. Nothing of them enters this Python environment. UNIFY_TOOLCHAIN_DIR says where they go.
"""
SIMULATE_EPILOG = """\
examples:
  unify simulate ascend --install                         Huawei's torch_npu, once: 44 MB, and torch where there is none
  unify simulate ascend -- python program.py              on one 910B3 with 64 GB
  unify simulate ascend --soc 910C --devices 8 -- torchrun --nproc-per-node 8 train.py
  unify simulate ascend --memory 8G --report out.json --trace trace.json -- python program.py
  unify simulate ascend --fault 0:aclnnAdd:3:aicore -- python program.py      the fourth addition fails on npu:0
  unify simulate ascend --fault 1:time:2.5:lost -- python program.py          npu:1 is gone after 2.5 seconds

The program uses torch_npu as it is, from a folder of its own: nothing enters this environment. It computes on this
machine's processor, by torch's own operators; times say nothing of a chip. python is the one that unify runs in,
another one by its path. Standard input and output are the program's. At its end a report on standard error has the
operators, copies, synchronisations, calls that failed, and the memory of each device.

WHAT happens: aicore, vector_core, ecc, timeout, out_of_memory, link, lost, hang, corrupt, or an aclError by its name.
CALL is a call of the vendor's, aclnnAdd or aclrtMemcpyAsync, or * for any; each process counts its own.

Exit status: the program's, or its signal; 2 for a wrong option or a program that is not there, 1 where something is
not installed. For tests of yours: pytest --ascend-simulated=910B3x2,64g.
"""
BENCH_EPILOG = """\
examples:
  unify bench --list                          the cases, and which peers are installed
  unify bench                                 every case whose peer is installed
  unify bench cpu --vs torch --plot cpu.svg   how fast kernels are on the CPU target
  unify bench rms-norm --vs torch             one case against one peer
  unify bench --vs llama.cpp --json --plot out.svg
  unify bench roofline                        what this machine can do at most

Both sides run in turns on the same cores. ratio: our speed over the peer's, above 1 is faster; its spread is shown.
"""
OPS_EPILOG = """\
examples:
  unify ops                                              the operators, a line each
  unify ops paged_attention                              one of them, in full
  unify ops --roofline                                   DeepSeek-V3's calls on this machine, whose limits are measured
  unify ops --roofline --target ascend:910C --weights int8 --batch 96
  unify ops --roofline --target cuda:90 --plot roof.svg  the picture

Least times are of the chip's peaks by its maker's word: what no program beats, not what one will reach.
"""
TUNE_EPILOG = """\
examples:
  unify tune --model smollm2-135m               prompts of 128 and 512 tokens, then a token of one text, and of 8
  unify tune --model ~/qwen3 --weights int8 --tokens 2048 --device cuda:0
  unify tune --model ~/qwen3 --weights fp8 --activations fp8 --sequences 1 32 --max-context 8192
  unify tune my_program.py --its-own option     whatever the program calls of unify.ops
  unify tune --forget

Give a model the options that you run it with: tiles are kept by the formats and sizes of what is multiplied. A decoding
step is measured behind each prompt, with a cache as small as `unify generate` makes it, and half-way through one of
--max-context tokens. What is found is used from then on by every process, on devices of this name and target. It is
kept in UNIFY_CACHE_DIR.
"""

TEST_EPILOG = """\
examples:
  unify test-backend opencl                            the whole suite, on opencl:0
  unify test-backend cuda:1 -k 'copy::test_fills*'     cases by name, with * for anything
  unify test-backend toy -k "graph and not launch"     cases by an expression of pytest's
  unify test-backend toy --list                        the names of the cases
  unify test-backend toy --spec my_package.spec:spec   with kernels and exceptions of your own
  unify test-backend toy --json --junit report.xml     for programs, and for a CI server

A case is skipped where the device itself says what it lacks, or the backend's spec does, with the reason. One that ends
its process fails, and the others run on. The spec, a unify.testing.Spec, is found by an entry point of the group
unify.conformance that is named as the backend. Exit status: 0 nothing failed, 1 something did. Needs pytest:
pip install 'unify-runtime[test]'.
"""
NEW_EPILOG = """\
examples:
  unify new-backend mychip                        writes ./unify-mychip
  unify new-backend mychip --directory ~/src      writes ~/src/unify-mychip
  unify test-backend mychip                       after pip install --no-build-isolation -e ./unify-mychip

What is written is whole: a backend in C whose devices are pieces of the host's memory, an entry point, a spec for the
conformance suite, and a README with the next steps. It passes what a backend must do; replace it function by function.
"""

#!/bin/sh
# From an empty folder to every committed figure: each command once, in this order. On two cores it takes about a day.
#
#     python3 start.py test            # sets up .venv and checks the program first
#     sh runs/reproduce.sh
#
# Each command keeps what is already there: to make a file of results/ again, delete it. S2L_CACHE decides where finished
# stages are stored. To resume a command that was killed, run it again.
set -e
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"

# 1. The lab: draw its people and photos, pre-train the model (75 minutes), and measure it. `lab build` never writes over
#    the shipped folder; to judge your own training, name it: S2L_LAB=cache/lab-fresh.
python -m s2l lab build --recipe fresh --out cache/lab-fresh
python -m s2l lab measure
#    The labs with buried memory: minutes each on a GPU (--device cuda), a night each on a CPU.
python -m s2l lab build --recipe buried --out cache/lab-buried
python -m s2l lab build --recipe swapped --out cache/lab-swapped
python -m s2l lab measure --model lab:buried --out results/lab-buried.json
#    Twins for the defences: 10 to 40 minutes each on one core.
for twin in twin twin-dedup twin-public twin-dp-inf twin-dp-8 twin-dp-1 twin-public-then-dp-8 \
    twin-public-then-dp-8-person; do
    python -m s2l lab build --recipe $twin --dtype float32
done

# 2. Do the intervals contain the true value as often as they should?
python -m tests.slow.test_coverage

# 3. The search for settings, on calibration people only. docs/protocol.md lists the settings that were frozen.
python -m s2l search search
python -m s2l search search-2

# 4. Tables on calibration people: a first look, every method and combination, attacks, ways to generate.
python -m s2l table first
python -m s2l table methods
python -m s2l table attacks --people 3
python -m s2l table extraction --people 2

# 5. Tables on reporting people, which played no part in choosing anything.
python -m s2l table main
python -m s2l table labs --people 8
python -m s2l table rank
python -m s2l table tokens
python -m s2l table noise
python -m s2l table sp-size
python -m s2l table split
python -m s2l table defences --dtype float32
python -m s2l table sampler --dtype float32

#    Which differences between two folders the blind controls see, and what attacks then claim.
python -m s2l blind

#    What the provider's gate catches and what gets past it: thresholds from calibration people.
python -m s2l gate-study

# 6. Speed, the example run of the app, and thirty visitors of the app.
python -m s2l bench --demo --quality 3 --growth
OMP_NUM_THREADS=1
export OMP_NUM_THREADS
python -m s2l bench --scale --out results/scale.json --device cpu --dtype float32
unset OMP_NUM_THREADS
python -m tests.slow.test_dp_speed
python -m s2l card --study --out results/study.json
python -m s2l showcase
python -m s2l frames --people "Oona Brask,Taro Quillan,Felix Marrow" --dtype mixed
python -m s2l app --port 7860 &
APP=$!
trap 'kill $APP' EXIT
sleep 30
python -m tests.browser.load http://127.0.0.1:7860 --browser --out results/load.json
python -m tests.browser.pictures http://127.0.0.1:7860 docs/images --docs

# 7. Every figure in README, docs and model card, from the results above.
python -m s2l docs

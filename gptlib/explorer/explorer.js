// Builds the explorer from `data` (see explorer/__init__.py) in every element that waits for it.
function explorer(data) {
  const { tokens, layers, heads, causal } = data, T = tokens.length;
  const weights = Uint8Array.from(atob(data.weights), letter => letter.charCodeAt(0));

  // How many percent of its attention query position `from` gives to key position `to`; null where it is masked.
  function percent(layer, head, from, to) {
    if (causal && to > from) return null;
    const size = causal ? T * (T + 1) / 2 : T * T;  // of a causal map only the lower triangle is stored
    return weights[(layer * heads + head) * size + (causal ? from * (from + 1) / 2 : from * T) + to];
  }

  // The two marks around a token keep one that is written from right to left from turning the sentence around.
  const named = position => `${position} ‘\u2068${tokens[position]}\u2069’`;

  function inWords({ layer, head, position }) {
    const keys = tokens.map((_, to) => ({ to, weight: percent(layer, head, position, to) }));
    const most = keys.filter(key => key.weight > 0).sort((a, b) => b.weight - a.weight || a.to - b.to).slice(0, 3);
    const [first, ...others] = most.map(({ to, weight }) => `${named(to)} (${weight} %)`);
    const where = first === undefined ? "gives no position as much as 0.5 %" : "attends most to " + first;
    const then = others.length ? ", then " + others.join(" and ") : "";
    return `Position ${named(position)}, layer ${layer}, head ${head}: ${where}${then}.`;
  }

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const name in attributes) element.setAttribute(name, attributes[name]);
    element.append(...children);  // strings become text, never markup
    return element;
  }
  function build(root) {
    const state = { layer: data.layer, head: data.head, position: T - 1, held: false };
    const each = (count, one) => Array.from({ length: count }, (_, i) => one(i));
    function radio(name, value) {
      const input = make("input", { type: "radio", name, "aria-label": `${name} ${value}` });
      input.checked = state[name] === value;
      input.onchange = () => { state[name] = value; draw(); };
      return input;
    }
    const numbers = make("input", { type: "checkbox" }), sentence = make("p", { "aria-live": "polite" });
    const tiles = tokens.map((token, i) => make("button", { type: "button", class: "cell", "aria-label": named(i) },
      make("small", {}, i), make("bdi", {}, token), make("b", {})));
    const strips = each(heads, head => make("label", { class: "row" },
      make("span", { class: "name" }, radio("head", head), `head ${head}`),
      ...each(T, () => make("span", { class: "cell", "aria-hidden": true }))));
    const grid = make("div", { class: "grid", style: `--tokens: ${T}` },
      make("div", { class: "row", role: "toolbar", "aria-label": "positions" }, make("span", { class: "name" }), ...tiles),
      make("div", { class: "row", role: "radiogroup", "aria-label": "head" }, ...strips));
    const form = make("form", { class: "explorer", "data-lm-suppress-shortcuts": true },  // JupyterLab leaves the keys
      make("div", { class: "choose" },
        make("span", { role: "radiogroup", "aria-label": "layer" }, "layer",
          ...each(layers, layer => make("label", {}, radio("layer", layer), layer))),
        make("label", {}, numbers, "numbers, in %"),
        make("span", { class: "scale", "aria-hidden": true }, "weight 0", make("i", {}), "1")),
      make("div", { class: "scroll" }, grid), sentence, make("p", { class: "help" },
        "Point at a token, or use the arrow keys. Click or press Enter to hold it, and Escape to let go."));
    function paint(cell, weight, text) {
      cell.classList.toggle("masked", weight === null);
      cell.classList.toggle("more", weight > 61);  // where, in both themes, the other text color reads better
      const [share, low, high] = weight < 50 ? [2 * weight, "none", "half"] : [2 * weight - 100, "half", "full"];
      cell.style.background = weight === null ? "" : `color-mix(in srgb, var(--${high}) ${share}%, var(--${low}))`;
      text.textContent = numbers.checked && weight !== null ? weight : "";
    }
    function draw() {
      const { layer, head, position, held } = state;
      tiles.forEach((tile, to) => {
        paint(tile, percent(layer, head, position, to), tile.lastChild);
        tile.classList.toggle("query", to === position);
        tile.setAttribute("aria-pressed", held && to === position);
        tile.tabIndex = to === position ? 0 : -1;  // Tab comes here once; the arrow keys go on from there
      });
      strips.forEach((strip, h) => {
        strip.classList.toggle("chosen", h === head);
        [...strip.children].slice(1).forEach((cell, to) => paint(cell, percent(layer, h, position, to), cell));
      });
      grid.classList.toggle("numbers", numbers.checked);
      sentence.textContent = inWords(state);
    }
    const show = (position, held) => { Object.assign(state, { position, held }); draw(); };
    numbers.onchange = draw;
    tiles.forEach((tile, i) => {
      tile.onmouseenter = tile.onfocus = () => state.held || show(i, false);
      tile.onclick = () => show(i, !(state.held && state.position === i));
      tile.onkeydown = event => {
        const next = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: T - 1 }[event.key];
        if (next !== undefined) event.preventDefault();
        tiles[next]?.focus();
      };
    });
    form.onkeydown = event => {
      event.stopPropagation();  // at an arrow key, JupyterLab would move on to another cell
      if (event.key === "Escape") show(state.position, false);
    };
    form.onsubmit = () => false;  // Enter at a radio button would send the form, and reload the page
    draw();
    root.append(form);
    root.firstElementChild.hidden = true;  // the picture: only now that all the rest is there
    root.dataset.alive = "";
  }
  // The same output may stand on a page several times: each script builds what no script has built yet.
  document.querySelectorAll(`[data-explorer="${data.name}"]:not([data-alive])`).forEach(build);
}

// ECharts in the page's colours, in both themes and at any width. Tooltips are drawn on the canvas: ECharts' HTML tooltips need inline
// styles, which the pages' policy forbids.

export const STAGES = ["baseline", "quantized", "pruned", "distilled"];

// Return a colour of the stylesheet in the current theme.
export function colour(name) {
  const probe = document.createElement("span");
  probe.className = `probe-${name}`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

const still = matchMedia("(prefers-reduced-motion: reduce)");

function common() {
  const soft = colour("soft"), line = colour("line");
  const axis = {
    nameTextStyle: { color: soft }, axisLabel: { color: soft, hideOverlap: true }, axisLine: { lineStyle: { color: line } },
    axisTick: { lineStyle: { color: line } }, splitLine: { lineStyle: { color: line, opacity: 0.6 } },
  };
  return {
    text: { color: colour("ink"), fontFamily: getComputedStyle(document.body).fontFamily },
    axis,
    tooltip: {
      renderMode: "richText", confine: true, backgroundColor: colour("surface"), borderColor: line, textStyle: { color: colour("ink"), fontSize: 12 },
    },
    legend: { textStyle: { color: soft, lineHeight: 18 }, type: "scroll", icon: "roundRect", itemHeight: 8, pageTextStyle: { color: soft } },
    colours: { ink: colour("ink"), soft, line, accent: colour("accent"), good: colour("good"), bad: colour("bad"), warn: colour("warn"), surface: colour("surface"), ...Object.fromEntries(STAGES.map((stage) => [stage, colour(stage)])) },
  };
}

// Draw a chart, and redraw it when the theme or the width changes. options: (looks) => ECharts options.
// Returns { draw, chart, close }.
export function picture(place, options) {
  const chart = window.echarts.init(place, null, { renderer: "canvas" });
  const draw = () => {
    const looks = common();
    chart.setOption({ textStyle: looks.text, animation: !still.matches, animationDuration: 250, ...options(looks) }, true);
  };
  const watcher = new ResizeObserver(() => chart.resize());
  watcher.observe(place);
  document.addEventListener("lathe:theme", draw);
  draw();
  const close = () => { watcher.disconnect(); document.removeEventListener("lathe:theme", draw); chart.dispose(); };
  return { draw, chart, close };
}

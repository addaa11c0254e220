// What the editor needs besides the server's description of the nodes: the text that a node reports, inputs that grow,
// and what the chosen strategy can be told.
import { app } from "../../scripts/app.js";
import { ComfyWidgets } from "../../scripts/widgets.js";

const GROWING = "LycomergeStack";
const PREFIX = "stack_";

/** Calls `then` after the node type's own method, if it has one. */
function after(nodeType, method, then) {
  const own = nodeType.prototype[method];
  nodeType.prototype[method] = function (...given) {
    const result = own?.apply(this, given);
    then.apply(this, given);
    return result;
  };
}

/** Shows lines of text in a box at the node's end. */
function show(node, text) {
  let box = node.widgets?.find((widget) => widget.name === "report");
  if (!box) {
    box = ComfyWidgets.STRING(node, "report", ["STRING", { multiline: true }], app).widget;
    box.serialize = false;
    box.options = { ...box.options, serialize: false };
    const element = box.inputEl ?? box.element;
    if (element) element.readOnly = true;
  }
  box.value = text;
  const [width, height] = node.computeSize();
  node.setSize([Math.max(width, node.size[0]), Math.max(height, node.size[1])]);
  app.graph.setDirtyCanvas(true);
}

/** Keeps one free input behind the last that is connected. */
function grow(node) {
  const numbered = () => node.inputs?.filter((input) => input.name.startsWith(PREFIX)) ?? [];
  const used = numbered().map((input) => input.link != null);
  const wanted = used.lastIndexOf(true) + 2;
  for (let count = used.length; count < wanted; count++) node.addInput(`${PREFIX}${count + 1}`, "LORA_STACK");
  for (let count = used.length; count > wanted; count--) node.removeInput(node.inputs.indexOf(numbered()[count - 1]));
}

/** Says beside the settings what the strategy can be told. */
function explain(node, strategies) {
  const strategy = node.widgets?.find((widget) => widget.name === "strategy");
  const settings = node.widgets?.find((widget) => widget.name === "settings");
  if (!strategy || !settings) return;
  const tell = () => {
    const row = strategies[strategy.value];
    if (!row) return;
    const element = settings.inputEl ?? settings.element;
    const parameters = row.parameters.map(([name, value]) => `${name}=${value}`).join(" ");
    if (element) element.placeholder = parameters ? `settings: ${parameters}` : "settings: this strategy has none";
    const lines = row.parameters.map(([name, value, takes, help]) => `${name} (${takes}; ${value}): ${help}`);
    settings.tooltip = [`${row.title}: ${row.help}`, ...lines].join("\n");
  };
  const chosen = strategy.callback;
  strategy.callback = function (...given) {
    const result = chosen?.apply(this, given);
    tell();
    return result;
  };
  tell();
}

app.registerExtension({
  name: "lycomerge",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith("Lycomerge")) return;
    after(nodeType, "onExecuted", function (message) {
      if (message?.text) show(this, message.text.join("\n"));
    });
    if (nodeData.name === GROWING) {
      // Not while a workflow is read: its links come after its inputs.
      after(nodeType, "onConnectionsChange", function () {
        if (!app.configuringGraph) grow(this);
      });
    }
    const strategies = nodeData.input?.required?.strategy?.[1]?.lycomerge_strategies;
    if (strategies) {
      after(nodeType, "onNodeCreated", function () {
        explain(this, strategies);
      });
      after(nodeType, "onConfigure", function () {
        explain(this, strategies);
      });
    }
  },
});

// A question with some answers, in a dialog of the browser's own: Escape leaves everything as it was.

function askPerson(root, text, answers) {
  return new Promise((done) => {
    let answer = null;
    const dialog = make("dialog", { className: "rv-ask", ariaLabel: text });
    const buttons = answers.map(([value, label, primary]) =>
      make("button", {
        type: "button",
        textContent: label,
        className: primary ? "rv-primary" : "",
        onclick: () => {
          answer = value;
          dialog.close();
        },
      }),
    );
    dialog.append(make("p", { textContent: text }), make("div", {}, ...buttons, make("button", { type: "button", textContent: "Cancel", onclick: () => dialog.close() })));
    dialog.onclose = () => {
      dialog.remove();
      done(answer);
    };
    root.append(dialog);
    dialog.showModal();
  });
}

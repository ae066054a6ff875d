// Rules of the page's JavaScript. Names are known to tsc; here are the habits.

import js from "@eslint/js";

export default [
  { ...js.configs.recommended, files: ["**/*.js"] },
  {
    files: ["**/*.js"],
    languageOptions: { ecmaVersion: 2025, sourceType: "module" },
    rules: {
      "no-undef": "off", // tsc knows the names of browsers and workers
      "no-unused-vars": "off", // and this
      "eqeqeq": "error",
      "prefer-const": ["error", { destructuring: "all" }],
      "no-var": "error",
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-new-func": "error",
      "no-shadow": "error",
      "max-lines": ["error", 400],
      "max-lines-per-function": ["error", { max: 50, skipBlankLines: true, skipComments: true }],
      "complexity": ["error", 18],
      "no-restricted-properties": ["error",
        { property: "innerHTML", message: "Text from a user stays text: use el() or textContent." },
        { property: "outerHTML", message: "Text from a user stays text: use el() or textContent." },
        { property: "insertAdjacentHTML", message: "Text from a user stays text: use el()." },
      ],
    },
  },
];

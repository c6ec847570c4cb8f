import { useEffect, useRef, useState } from "preact/hooks";

/** A question to the user in a modal dialog. Resolves to null when it is dismissed. */
export interface Question {
  title: string;
  /** One paragraph each. */
  text?: string[];
  /** Text on the button that goes on. */
  confirm: string;
  danger?: boolean;
  /** Another way on, resolved as its `value`. */
  other?: { label: string; value: string; danger?: boolean };
  /** Asks for a line (or lines) of text. */
  input?: {
    label: string;
    value?: string;
    multiline?: boolean;
    /** The sentence that says what is wrong with the text, or null. */
    check?(value: string): string | null;
  };
  /** Asks to type this to go on. */
  type?: string;
}

interface Open {
  question: Question;
  resolve(answer: string | null): void;
}

let show: ((open: Open) => void) | undefined;

/** Puts a question. Without an input the answer is "" for yes. */
export function ask(question: Question): Promise<string | null> {
  return new Promise((resolve) => {
    if (show) show({ question, resolve });
    else resolve(null);
  });
}

export async function confirm(question: Omit<Question, "input">): Promise<boolean> {
  return (await ask(question)) !== null;
}

/** Where questions appear; once per page. */
export function DialogHost() {
  const [queue, setQueue] = useState<Open[]>([]);
  useEffect(() => {
    show = (open) => setQueue((queue) => [...queue, open]);
    return () => {
      show = undefined;
    };
  }, []);
  const open = queue[0];
  if (!open) return null;
  const close = (answer: string | null) => {
    setQueue((queue) => queue.slice(1));
    open.resolve(answer);
  };
  return <QuestionDialog key={queue.length} question={open.question} close={close} />;
}

function QuestionDialog({ question, close }: { question: Question; close(answer: string | null): void }) {
  const ref = useRef<HTMLDialogElement>(null);
  const [value, setValue] = useState(question.input?.value ?? "");
  const [problem, setProblem] = useState<string | null>(null);
  useEffect(() => {
    const dialog = ref.current;
    dialog?.showModal();
    const field = dialog?.querySelector<HTMLInputElement | HTMLTextAreaElement>("input,textarea");
    field?.focus();
    if (field && question.input?.value && !question.input.multiline) {
      const dot = field.value.lastIndexOf(".");
      field.setSelectionRange(field.value.lastIndexOf("/") + 1, dot > 0 ? dot : field.value.length);
    }
    return () => dialog?.close();
  }, [question]);

  const blocked = question.type !== undefined && value.trim() !== question.type;
  const submit = (event: Event) => {
    event.preventDefault();
    if (blocked) return;
    const wrong = question.input?.check?.(value) ?? null;
    if (wrong !== null) return setProblem(wrong);
    close(value);
  };
  const field = {
    id: "question-input",
    value,
    "aria-invalid": problem !== null,
    "aria-describedby": problem === null ? undefined : "question-problem",
    onInput: (event: { currentTarget: HTMLInputElement | HTMLTextAreaElement }) => {
      setValue(event.currentTarget.value);
      setProblem(null);
    },
  };
  return (
    <dialog
      ref={ref}
      class="dialog"
      aria-labelledby="question-title"
      onCancel={(event) => {
        event.preventDefault();
        close(null);
      }}
    >
      <form onSubmit={submit}>
        <h2 id="question-title">{question.title}</h2>
        {question.text?.map((text) => <p key={text}>{text}</p>)}
        {question.type !== undefined && (
          <label class="field">
            <span>
              Type <strong>{question.type}</strong> to go on
            </span>
            <input {...field} autocomplete="off" />
          </label>
        )}
        {question.input && (
          <label class="field">
            <span>{question.input.label}</span>
            {question.input.multiline ? <textarea rows={6} {...field} /> : <input {...field} autocomplete="off" spellcheck={false} />}
          </label>
        )}
        {problem !== null && (
          <p class="problem" id="question-problem" role="alert">
            {problem}
          </p>
        )}
        <div class="actions">
          <button type="button" class="quiet" onClick={() => close(null)}>
            Cancel
          </button>
          {question.other && (
            <button type="button" class={question.other.danger ? "danger" : ""} onClick={() => close(question.other?.value ?? null)}>
              {question.other.label}
            </button>
          )}
          <button type="submit" class={question.danger ? "danger" : "primary"} disabled={blocked}>
            {question.confirm}
          </button>
        </div>
      </form>
    </dialog>
  );
}
